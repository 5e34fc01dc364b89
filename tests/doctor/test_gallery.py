"""Real mistakes are reported by code and line, nothing is reported on real styles, and no run is changed."""

import gallery
import pytest
import torch
from loop_doctor import LoopDoctor
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
