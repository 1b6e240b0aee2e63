"""`jodi verify`: our numbers against vectors that the published code computed."""

from pathlib import Path

from ..ddit_core.evaluation.verify import SUITES as DDIT_SUITES
from ..jodi_core.evaluation.verify import SUITES as JODI_SUITES
from ..kit.vectors import verify_folder
from .model import choose_device
from .options import add_command, parse_path
from .progress import Console

ROOT = Path(__file__).resolve().parent.parent
SUITES = {**JODI_SUITES, **DDIT_SUITES}

EXAMPLES = """
jodi verify ../shared/reference
jodi verify vectors --device cuda
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "verify",
        run,
        "Compare this implementation with stored vectors of the published code.",
        "A folder of vectors has sub-folders jodi, dcae and ddit, each with weights and cases. One "
        "line a case with its relative RMS error; the last line counts. The exit status is 1 when "
        "a case fails, or when there is none.",
        EXAMPLES,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=parse_path,
        metavar="DIR",
        help="default: shared/reference beside the project",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


def run(args, console: Console) -> int:
    folder = args.folder or ROOT.parent / "shared" / "reference"
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for case in verify_folder(folder, SUITES, str(choose_device(args.device))):
        console.result(" ".join(str(case).split()))
        counts[case.status] += 1
    console.result(f"{counts['PASS']} passed, {counts['FAIL']} failed")
    return 1 if counts["FAIL"] or not counts["PASS"] else 0
