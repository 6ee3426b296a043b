"""A hook of MkDocs: what the docs link to outside docs/, such as `../examples/scenes.py`, becomes a page of the site.

So the same link works where the repository is read, and on the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel


ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()((?:\.\./)+[\w./-]+\.py)(?=\))")


def _sources(page: str, text: str) -> dict[str, str]:
    """Link -> file, from the root of the repository, of all links of a page to Python files outside docs/."""
    folder = posixpath.dirname(f"docs/{page}")
    found = {match[2]: posixpath.normpath(f"{folder}/{match[2]}") for match in LINK.finditer(text)}
    return {link: file for link, file in found.items() if not file.startswith("docs/") and (ROOT / file).is_file()}


def on_files(files, config):
    linked = set()
    for file in files.documentation_pages():
        linked.update(_sources(file.src_uri, file.content_string).values())
    for source in sorted(linked):
        code = (ROOT / source).read_text(encoding="utf-8")
        content = f"# `{source}`\n\n````python\n{code}````\n"
        files.append(
            File.generated(config, f"source/{source}.md", content=content, inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


def on_page_markdown(markdown, page, config, files):
    sources = _sources(page.file.src_uri, markdown)
    up = "../" * page.file.src_uri.count("/")
    # A link that leads nowhere stays as it is: MkDocs names it.
    return LINK.sub(lambda match: f"]({up}source/{sources[match[2]]}.md" if match[2] in sources else match[0], markdown)
