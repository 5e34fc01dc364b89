"""A printed fix makes the loop right: the doctor is silent then, and the weights equal those of a correct loop."""

import cures
import pytest
from cure_parts import run, with_fix
from test_cases import parts, the_same


@pytest.mark.parametrize("case", cures.CURES, ids=lambda case: f"{case.code}{case.name and '-'}{case.name}")
def test_the_printed_fix_makes_the_loop_right(case, tmp_path):
    doctor, _wrong = run(case.faulty, tmp_path / "faulty")
    assert [finding.code for finding in doctor.findings] == [case.code], str(doctor)
    text = with_fix(case, doctor.findings[0].fix)
    doctor, cured = run(text, tmp_path / "cured")
    assert doctor.findings == [], f"{text}\n{doctor}"
    doctor, right = run(case.right, tmp_path / "right")
    assert doctor.findings == [], str(doctor)
    assert right is not None
    assert the_same(list(parts(cured)), list(parts(right))), text
