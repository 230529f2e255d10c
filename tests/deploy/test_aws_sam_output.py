"""What the SAM CLI says is shown, without what only makes sense on a terminal."""

from __future__ import annotations

import io
import os
from pathlib import Path

from handlers.deploy.aws_sam import Sam
from handlers.deploy.progress import Progress

SAYS = r"""#!/bin/sh
printf 'Creating the required resources...\n\n-----  -----\n'
printf '\r\tUploading to 38f6be3e3b7c  262144 / 6119927  (4.28%%)'
printf '\r\tUploading to 38f6be3e3b7c  6029312 / 6119927  (98.52%%)'
printf '\r\tUploading to 38f6be3e3b7c  6119927 / 6119927  (100.00%%)\n'
"""


def test_notes_of_a_build_are_shown_once(tmp_path: Path) -> None:
    """Show what the bundle has to tell, although all else that a build says is not shown."""
    (tmp_path / "sam").write_text("#!/bin/sh\necho building; echo 'note: left out: a.key'\n" * 2)
    (tmp_path / "sam").chmod(0o755)
    told = io.StringIO()
    environ = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    Sam.found(Progress(told), environ).run(["build"], tmp_path, shown=False)
    assert told.getvalue().strip() == "note: left out: a.key"


def test_an_upload_is_one_line(tmp_path: Path) -> None:
    """Show the end of an upload, and not each of its steps."""
    (tmp_path / "sam").write_text(SAYS)
    (tmp_path / "sam").chmod(0o755)
    told = io.StringIO()
    environ = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    Sam.found(Progress(told), environ).run(["deploy"], tmp_path)
    lines = [line.strip() for line in told.getvalue().splitlines()]
    assert lines == [
        "Creating the required resources...",
        "Uploading to 38f6be3e3b7c  6119927 / 6119927  (100.00%)",
    ]
