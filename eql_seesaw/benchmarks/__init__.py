"""Commands that measure this project beside others; nothing here is needed to train."""
