# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Images that a text describes, from a store: a first stage over captions that needs no model, then ViLBERT."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .optional_packages import need
from .regions_vilbert import Regions
from .retrieval import ImageTextScorer


def caption_shortlist(query: str, captions: Mapping[Any, str | Sequence[str]], count: int = 100) -> list[Any]:
    """The images whose captions have most words in common with a query, rare words counting more (TF-IDF).

    A first stage that needs no model. Whatever ranks a whole corpus at a small cost may take its place; see
    docs/retrieval.md.

    Args:
        query: the text.
        captions: image id -> its caption or captions, of which the best one counts.
        count: so many images, at most; those that have no word in common are left out.

    Returns:
        Ids, the best first: `candidates` of `ImageTextScorer.rank`.

    Raises:
        ValueError: if there are no captions, one is no text, none has a word of the query, or `count` is below 1.

    Example:

    ```python
    >>> from modeling_vilbert import caption_shortlist
    >>> captions = {"1": "two dogs on grass", "2": ["a red bus", "a bus and a dog"], "3": "a cat"}
    >>> caption_shortlist("the red bus on the grass", captions)
    ['2', '1']

    ```
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}.")
    rows = caption_rows(captions)
    if not rows:
        raise ValueError("captions must be at least one, got none.")
    # Words of one letter count as well.
    vectorizer = need("sklearn.feature_extraction.text").TfidfVectorizer(token_pattern=r"\w+")
    names, texts = zip(*rows)
    try:
        vectors = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError(f"captions: none of {len(rows)} has a word, as {texts[0]!r} of {names[0]!r}.") from error
    scores = (vectors @ vectorizer.transform([query]).T).toarray()[:, 0]
    best = [names[place] for place in np.argsort(-scores, kind="stable") if scores[place] > 0]
    if not best:
        raise ValueError(f"captions: none of {len(rows)} has a word of the query {query!r}.")
    return list(dict.fromkeys(best))[:count]


def caption_rows(captions: Mapping[Any, str | Sequence[str]], source: str = "captions") -> list[tuple[Any, str]]:
    """(image id, caption), one after another; a ValueError names the source if one is no text."""
    rows = []
    for name, found in captions.items():
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{source}: those of {name!r} must be a text or a list of texts, got {found!r:.80}.")
        rows += [(name, text) for text in texts]
    return rows


def read_captions(path: str | Path) -> dict[str, str | list[str]]:
    """A JSON file of {image id: caption, or list of captions}.

    Raises:
        ValueError: if it holds anything else.
    """
    try:
        captions = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"captions {path} are no JSON: {error}") from error
    if not isinstance(captions, dict):
        raise ValueError(f"captions {path} must be {{image id: caption or captions}}, got {type(captions).__name__}.")
    caption_rows(captions, f"captions {path}")
    return captions


def search(
    scorer: ImageTextScorer,
    query: str,
    store: Mapping[str, Regions],
    top_k: int = 5,
    captions: Mapping[str, str | Sequence[str]] | None = None,
    shortlist: int = 100,
    progress: bool = False,
) -> list[tuple[str, float]]:
    """The images of a store that match a query best; the work of `vilbert search`.

    Args:
        scorer: of the model.
        query: the text.
        store: image id -> `Regions`.
        top_k: so many images.
        captions: of images, which need not be all and may be of others, too: only those whose captions are next to the
            query are scored. Default: all images are.
        shortlist: how many those are.
        progress: show a bar.

    Returns:
        (id, score), the best first.
    """
    candidates = None
    if captions is not None:
        known = {name: texts for name, texts in captions.items() if name in store}
        if not known:
            raise ValueError(f"captions: none of {len(captions)} is of an image of the store, which has {len(store)}.")
        candidates = caption_shortlist(query, known, shortlist)
    return scorer.rank(query, store, top_k, candidates, progress)
