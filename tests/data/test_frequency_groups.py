from eql_seesaw.data.frequency_groups import GROUP_NAMES, frequency_groups


def test_groups_of_lvis():
    assert frequency_groups([0, 1, 10, 11, 100, 101, 5000]) == list("rrrccff")
    assert set(frequency_groups([1, 20, 200])) == GROUP_NAMES.keys()
