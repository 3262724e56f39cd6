"""A small template of a subject's page, data sets of names only, and the command as a file: for tests of the runner."""

from __future__ import annotations

import sys
from pathlib import Path

from aslpinn_book.study.notebooks import Task, subject_tasks

#: How every template of a subject's page begins; its parameters follow.
FRONT = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A subject

```{code-cell} python
:tags: [parameters]
"""

#: Copies the series to the map. A series that says "broken" is a wrong input, one that says "killed" ends the kernel.
SUBJECT = (
    FRONT
    + """asl = ""
subject = ""
out = ""
fast = False
```

$$a = b$$ (eq-a)

See {eq}`eq-a`.

```{code-cell} python
from pathlib import Path
from aslpinn.errors import InputError

content = Path(asl).read_text()
if content == "broken":
    raise InputError("sub-02_asl.json: RepetitionTimePreparation is missing; expected seconds")
if content == "killed":
    import os

    os._exit(9)
folder = Path(out) / subject / "perf"
folder.mkdir(parents=True, exist_ok=True)
(folder / f"{subject}_cbf.nii.gz").write_text(content)
```
"""
)


def dataset(root: Path, **subjects: str) -> Path:
    """A data set whose series hold a word each: label -> word."""
    for label, content in subjects.items():
        folder = root / f"sub-{label}" / "perf"
        folder.mkdir(parents=True)
        (folder / f"sub-{label}_asl.nii.gz").write_text(content)
        (folder / f"sub-{label}_asl.json").write_text("{}")
    return root


def tasks_of(project: Path, *roots: Path, **options) -> list[Task]:
    """The subjects of data sets, as a study in PROJECT/out would run them."""
    return subject_tasks(roots, project / "out", project / "notebooks" / "subject.md", {"fast": True}, **options)


def program(folder: Path) -> Path:
    """The program aslpinn as a file in folder, which shell scripts can call."""
    script = folder / "aslpinn"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aslpinn "$@"\n')
    script.chmod(0o755)
    return script
