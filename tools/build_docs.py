"""Builds the documentation: `python tools/build_docs.py [FOLDER]`, or `make docs`.

The pages are those of the repository, each README and all of `docs/`, with links as they are; the
reference is written by `tools/reference_pages.py`. A link that leads nowhere fails it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.reference_pages import PAGES

ROOT: Final = Path(__file__).parents[1]
_LINK: Final = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_PAGES: Final = ("*.md", "docs/**/*.md", "deploy/**/*.md", "esper/**/*.md", "processors/**/*.md")


def main(folder: Path) -> None:
    """Write the site into `folder`/html."""
    source, html = folder / "source", folder / "html"
    shutil.rmtree(folder, ignore_errors=True)
    pages = sorted({path for pattern in _PAGES for path in ROOT.glob(pattern)})
    for path in pages:
        there = source / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(_linked(path, source))
    shutil.copy(ROOT / "tools/docs_conf.py", source / "conf.py")
    (source / "_static").mkdir()
    shutil.copy(ROOT / "tools/docs.css", source / "_static")
    for name, page in PAGES.items():
        there = source / "docs/reference" / f"{name}.md"
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(page())
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, source, html], check=False)
    if done.returncode:
        sys.exit("The site was not built: what is wrong stands above.")
    sys.stdout.write(f"{html / 'docs/index.html'}\n")


def _linked(path: Path, source: Path) -> str:
    """A page whose links lead to pages and files of the site; those files are put beside it. What
    leads to a folder without a page of its own is text.
    """

    def led(found: re.Match[str]) -> str:
        target = (path.parent / found[2]).resolve()
        if target.is_dir():
            page = f"{found[2].rstrip('/')}/README.md"
            return f"[{found[1]}]({page})" if (target / "README.md").is_file() else found[1]
        if target.is_file() and target.suffix != ".md":
            there = source / target.relative_to(ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, there)
        return found[0]

    return _LINK.sub(led, path.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".esper/docs"))
