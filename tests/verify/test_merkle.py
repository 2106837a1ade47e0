import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.verify.merkle import check, check_at, path, root
from cloudlinkup.wire.hashes import node


def leaves(count):
    return [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(count)]


@given(st.integers(1, 200), st.data())
def test_every_leaf_has_a_path_that_leads_to_the_root_and_to_no_other_place(count, data):
    row = leaves(count)
    top = root(row)
    index = data.draw(st.integers(0, count - 1))
    steps = path(row, index)
    assert check(row[index], steps, top) and check_at(row[index], index, count, steps, top)
    other = data.draw(st.integers(0, count - 1))
    if other != index:
        assert not check(row[other], steps, top)
        assert not check_at(row[index], other, count, steps, top)
    assert not check_at(row[index], index + count, count, steps, top)
    for place in range(len(steps)):
        left, sibling = steps[place]
        for wrong in ((not left, sibling), (left, bytes(32)), (left, sibling[:-1])):
            changed = [*steps[:place], wrong, *steps[place + 1 :]]
            assert not check(row[index], changed, top)


@given(st.integers(1, 100), st.integers(1, 100))
def test_lists_of_different_length_have_different_roots(one, two):
    assert (root(leaves(one)) == root(leaves(two))) == (one == two)


def test_an_odd_leaf_moves_up_and_is_not_paired_with_itself():
    a, b, c = leaves(3)
    assert root([a, b, c]) == node(node(a, b), c)
    assert root([a, b, c]) != root([a, b, c, c])
    assert path([a, b, c], 2) == [(True, node(a, b))]
    assert root([a]) == a and path([a], 0) == []


def test_an_inner_node_does_not_pass_where_a_leaf_is_expected():
    row = leaves(4)
    inner = node(row[0], row[1])
    steps = path(row, 0)
    assert check(inner, steps[1:], root(row))  # the hashes do lead up: so positions are checked too
    assert not check_at(inner, 0, 4, steps[1:], root(row))
    assert not check_at(inner, 0, 2, steps[:1], root(row))


def test_bad_input_is_refused():
    with pytest.raises(ValueError):
        root([])
    with pytest.raises(ValueError):
        root([b"short"])
    with pytest.raises(IndexError):
        path(leaves(3), 3)
    assert not check(b"short", [], b"short")
    assert not check(bytes(32), [(True, bytes(32))] * 65, bytes(32))
