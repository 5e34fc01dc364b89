"""The command `loop-doctor`, in this process and for real in others."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from loop_doctor.command import main
from loop_doctor.explain import Finding
from loop_doctor.formats import Report, as_github
from loop_doctor.messages import MESSAGES
from loop_doctor.rules import RULES

FAULTY = """\
import torch
from torch import nn

model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for i in range(12):
    loss = nn.functional.cross_entropy(model(torch.ones(8, 4)), torch.zeros(8, dtype=torch.long))
    loss.backward()
    optimizer.step()
"""
FIXED = FAULTY.replace("    loss.backward()", "    optimizer.zero_grad()\n    loss.backward()")


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "helper", None)  # put back, and so forgotten, when the test has ended
    monkeypatch.delitem(sys.modules, "helper")
    (tmp_path / "helper.py").write_text("NAME = 'helper'\n")

    def write(code, name="train.py"):
        (tmp_path / name).write_text("import sys\nimport helper\nprint('given', sys.argv)\n" + textwrap.dedent(code))
        return name

    return write


def in_a_process(folder, *arguments, **options):
    command = [sys.executable, "-m", "loop_doctor", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=100, **options)


def test_a_script_runs_as_it_would_alone_and_is_examined(script, capsys):
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    assert main(["run", script(FAULTY), "--epochs", "1", "--format", "x"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "given ['train.py', '--epochs', '1', '--format', 'x']\n"
    assert shown.err.startswith("loop-doctor: running train.py\nLoop doctor: 1 problem\n")
    assert "Where:  train.py, line 11: loss.backward()" in shown.err
    assert (sys.argv, sys.path, sys.modules["__main__"]) == before


def test_a_module_runs_as_it_would_alone(script, tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").touch()
    script(FAULTY, "parts/train.py")
    assert main(["run", "-m", "parts.train", "--epochs", "1"]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"given {[str(tmp_path / 'parts' / 'train.py'), '--epochs', '1']}\n"
    assert "parts/train.py, line 11: loss.backward()" in shown.err


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        (FIXED, 0, "nothing wrong was seen"),
        (FAULTY + "raise ValueError('own error')", 1, "ValueError: own error"),
        (FAULTY + "sys.exit(7)", 7, "missing-zero-grad"),
        (FAULTY + "sys.exit(0)", 1, "missing-zero-grad"),
        (FAULTY + "sys.exit()", 1, "missing-zero-grad"),
        (FIXED + "sys.exit(0)", 0, "nothing wrong was seen"),
        (FIXED + "sys.exit('own words')", 1, "\nown words\n"),
        (FAULTY + "raise KeyboardInterrupt", 130, "missing-zero-grad"),
        ("print('no loop')", 0, "no loop to examine"),
        ("import torch\ntorch.optim.SGD(torch.nn.ReLU().parameters())", 1, "optimizer got an empty parameter list"),
        ("from loop_doctor import LoopDoctor\nwith LoopDoctor(): pass", 1, "another LoopDoctor is watching"),
    ],
)
def test_a_script_ends_with_its_own_number(script, code, returncode, said, capsys):
    assert main(["run", script(code)]) == returncode
    shown = capsys.readouterr().err
    assert said in shown
    assert "Loop doctor:" in shown
    assert "loop_doctor/script.py" not in shown  # the traceback begins with the user's own file


def test_a_syntax_error_is_shown_as_python_shows_it(script, tmp_path):
    script("for x in\n")
    done = in_a_process(tmp_path, "run", "train.py")
    alone = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.replace(b"loop-doctor: running train.py" + os.linesep.encode(), b"") == alone.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "name a script, or a module after -m"),
        (["run", "nothing.py"], "the script 'nothing.py' does not exist"),
        (["run", "-m", "no_such_module"], "the module 'no_such_module' cannot be run"),
        (["run", "--ignore", "missing-zerograd", "train.py"], "ignore: unknown code 'missing-zerograd': did you mean "),
        (["run", "--fail-on", "problems", "train.py"], "fail-on: unknown code 'problems'"),
        (["run", "--format", "xml", "train.py"], "format must be one of text, json, github, sarif, got 'xml'"),
        (["run", "--format", "json", "train.py"], "--format json needs --output FILE"),
        (["run", "--output", "no/folder/x", "train.py"], "cannot be written to 'no/folder/x'"),
        (["explain", "missing-stepp"], "unknown code 'missing-stepp': did you mean 'missing-step'?"),
    ],
)
def test_wrong_usage_is_named(script, arguments, said, capsys):
    script(FIXED)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "returncode"),
    [
        ([], 1),
        (["--fail-on", "never"], 0),
        (["--fail-on", "hint"], 1),
        (["--fail-on", "missing-step,missing-zero-grad"], 1),
        (["--fail-on", "missing-step"], 0),
        (["--ignore", "missing-zero-grad"], 0),
    ],
)
def test_the_exit_code_follows_fail_on_and_ignore(script, options, returncode, capsys):
    assert main(["run", *options, script(FAULTY)]) == returncode
    assert ("1. missing-zero-grad" in capsys.readouterr().err) == ("--ignore" not in options)


@pytest.mark.parametrize(
    ("table", "options", "returncode", "said"),
    [
        ("fail-on = 'never'", [], 0, "1. missing-zero-grad"),
        ("fail-on = 'never'", ["--fail-on", "problem"], 1, "1. missing-zero-grad"),
        ("ignore = ['missing-zero-grad']", [], 0, "nothing wrong"),
        ("format = 'github'", [], 1, "::error file=train.py,line=11,title=missing-zero-grad::"),
        ("ignore = ['missing']", [], 2, "unknown code 'missing'"),
        ("ignore = 3", [], 2, "ignore must be a list of codes, got 3"),
        ("harmless = 'yes'", [], 2, "harmless must be true or false, got 'yes'"),
        ("fail_on = 'never'", [], 2, "unknown setting 'fail_on'"),
        ("fail-on = ", [], 2, "pyproject.toml cannot be read"),
    ],
)
def test_settings_come_from_the_nearest_pyproject(
    script, tmp_path, monkeypatch, table, options, returncode, said, capsys
):
    (tmp_path / "pyproject.toml").write_text(f"[tool.loop-doctor]\n{table}\n")
    (tmp_path / "below").mkdir()
    script(FAULTY)
    assert main(["run", *options, "train.py"]) == returncode
    assert said in capsys.readouterr().err
    monkeypatch.chdir("below")
    assert main(["run", *options, "../train.py"]) == returncode


def test_json_says_everything_in_a_file_of_its_own(script, tmp_path, capsys):
    script(FAULTY + "import os\nos.chdir('/')\nraise ValueError('stop')")
    assert main(["run", "--format", "json", "--output", "doctor.json", "train.py"]) == 1
    report = json.loads((tmp_path / "doctor.json").read_text())
    (finding,) = report["findings"]
    assert (finding["code"], finding["level"], finding["line"]) == ("missing-zero-grad", "problem", 11)
    assert finding["file"] == str(tmp_path / "train.py")
    assert finding["where"] == "train.py, line 11: loss.backward()"
    assert finding.keys() == {"code", "level", "message", "evidence", "fix", "lesson", "where", "file", "line"}
    assert (report["version"], report["curves"]) == (1, {})
    assert report["seen"][0] == "Seen: 12 steps of SGD, 12 backward calls, the model Linear."
    assert report["script"] == {"exit_code": 1, "error": "ValueError: stop"}
    assert "there is 1 problem\nloop-doctor: the report is in " in capsys.readouterr().err
    os.chdir(tmp_path)


def test_sarif_has_the_rules_and_relative_places(script, tmp_path):
    script(FAULTY, "my train.py")
    assert main(["run", "--format", "sarif", "--output", "doctor.sarif", "my train.py"]) == 1
    report = json.loads((tmp_path / "doctor.sarif").read_text())
    assert report["version"] == "2.1.0"
    (run,) = report["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULES)
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("missing-zero-grad", "error")
    assert rules[result["ruleIndex"]]["id"] == "missing-zero-grad"
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "my%20train.py"
    assert location["physicalLocation"]["region"] == {"startLine": 11}
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 0}]


def test_githubs_commands_are_escaped():
    finding = Finding("code", "hint", "50% of\nit", "seen", "fix", "01", "where", "/a,b:c%.py", 3)
    line = as_github(Report([finding], {}, []))
    assert line == "::warning file=/a%2Cb%3Ac%25.py,line=3,title=code::50%25 of%0Ait%0Aseen%0AFix:%0Afix"


@pytest.mark.parametrize("code", RULES)
def test_every_code_is_explained(code, capsys):
    assert main(["explain", code]) == 0
    shown = capsys.readouterr().out
    assert f"{code} ({MESSAGES[code].level})\n{MESSAGES[code].message}" in shown
    assert MESSAGES[code].lesson in shown
    assert "{" not in shown.replace('f"', "").partition("Fix:")[0]


def test_explain_alone_lists_all_codes(capsys):
    assert main(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RULES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    "ending",
    [
        "    sys.exit(3)\n",
        pytest.param("", marks=pytest.mark.proof),
        pytest.param("    raise ValueError('child')\n", marks=pytest.mark.proof),
    ],
)
def test_a_forked_child_reports_nothing(script, tmp_path, ending):
    script(
        FAULTY + f"import os\nchild = os.fork()\nif child == 0:\n    pass\n{ending}else:\n    os.waitpid(child, 0)\n"
    )
    done = in_a_process(tmp_path, "run", "train.py")
    assert done.returncode == 1
    assert done.stderr.count(b"Loop doctor:") == 1
    assert done.stderr.count(b"ValueError: child") == ("ValueError" in ending)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_shows_the_findings(script, tmp_path):
    script(FAULTY + "print('trained', flush=True)\nwhile True: pass\n")
    command = [sys.executable, "-m", "loop_doctor", "run", "train.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        try:
            while process.stdout.readline() not in ("trained\n", ""):
                pass
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "1. missing-zero-grad" in error


def test_stdin_and_stdout_are_the_scripts_own_and_a_closed_stderr_loses_nothing(script, tmp_path):
    write = "sys.stdout.flush()\nsys.stdout.buffer.write(b'\\xff\\x00' + sys.stdin.buffer.read())\n"
    script(FAULTY + write + "sys.stderr.close()\n")
    done = in_a_process(tmp_path, "run", "train.py", input=b"\xfe")
    assert done.returncode == 1
    assert done.stdout.endswith(b"\xff\x00\xfe")
    assert b"1. missing-zero-grad" in done.stderr


SPAWNING = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.ones(4) * i

def main():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0001)
    for x in DataLoader(Numbers(), batch_size=2, num_workers=1, multiprocessing_context="spawn"):
        model(x).square().mean().backward()
        optimizer.step()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", [["train.py"], pytest.param(["-m", "train"], marks=pytest.mark.proof)])
def test_workers_that_are_spawned_find_the_script(script, tmp_path, target):
    script(SPAWNING)
    done = in_a_process(tmp_path, "run", *target)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(b"Loop doctor:") == 1
    assert b"1. missing-zero-grad" in done.stderr
