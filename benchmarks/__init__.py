"""Measurements of this project beside its peers. Each script can be read and run by itself."""
