"""Real mistakes are reported by code and line, nothing is reported on real styles, and no run is changed."""

import re

import gallery
import pytest
import torch
from loop_doctor import LoopDoctor
from loop_doctor.messages import MESSAGES
from test_cases import examine


@pytest.mark.parametrize("case", gallery.BUGS, ids=lambda case: case.name)
def test_a_real_mistake_is_found(case, tmp_path, monkeypatch):
    doctor = examine(case, tmp_path, monkeypatch)
    assert sorted(finding.code for finding in doctor.findings) == sorted(case.codes), str(doctor)
    for finding in doctor.findings:
        assert finding.where.endswith(f"# <- {finding.code}"), finding.where


@pytest.mark.parametrize("case", gallery.BUGS, ids=lambda case: case.name)
def test_it_is_found_even_if_the_loop_leaves_nothing_behind(case, tmp_path):
    torch.manual_seed(0)
    with LoopDoctor() as doctor:
        case.run(tmp_path)  # its result, the model, dies inside the block
    assert sorted(finding.code for finding in doctor.findings) == sorted(case.codes), str(doctor)


@pytest.mark.parametrize("case", gallery.STYLES, ids=lambda case: case.name)
def test_nothing_is_reported_on_a_real_style(case, tmp_path, monkeypatch):
    doctor = examine(case, tmp_path, monkeypatch)
    assert doctor.findings == [], str(doctor)


@pytest.mark.parametrize("case", gallery.LIMITS, ids=lambda case: case.name)
def test_a_limit_is_still_one(case, tmp_path, monkeypatch):
    """A limit that has gone belongs among the mistakes that are found."""
    doctor = examine(case, tmp_path, monkeypatch)
    assert doctor.findings == [], str(doctor)


def test_the_gallery_says_where_each_case_comes_from():
    assert len(gallery.BUGS) >= 12
    assert len(gallery.STYLES) >= 12
    for case in (*gallery.BUGS, *gallery.LIMITS):
        assert re.match(r"[\w-]+/[\w.-]+#\d+[ :]", case.style), case.style
    for case in gallery.STYLES:
        assert re.match(r"[\w-]+/[\w-]+[,:]", case.style), case.style
    assert len({case.name for case in (*gallery.BUGS, *gallery.STYLES, *gallery.LIMITS)}) == sum(
        map(len, (gallery.BUGS, gallery.STYLES, gallery.LIMITS))
    )
    assert {code for case in gallery.BUGS for code in case.codes} <= set(MESSAGES)
