"""The `jodi` command without installing anything: `python FOLDER convert ...` runs this file.

For a folder of any name that was copied into `custom_nodes`, run with ComfyUI's own Python.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = "jodi_folder"  # not comfyui_jodi, which may be installed, and may be another version


def load_package() -> None:
    """Make this very folder importable as `PACKAGE`."""
    # Python puts the folder it runs first in its path: there `nodes` or `cli` would hide others.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != ROOT]
    places = [str(ROOT)]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=places
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


# Processes that a command starts must find the package too. They run this file first, under another
# name, but only if it says nothing of how it was found: so the package is loaded here, not below.
__spec__ = None
load_package()

if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{PACKAGE}.cli.main").main())
