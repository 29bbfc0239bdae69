"""What can stand in a generated scene, and what each data set calls it."""

from __future__ import annotations

from dataclasses import dataclass

from student.tasks.spec import NYU_CLASSES, VOC_CLASSES


@dataclass(frozen=True)
class Thing:
    """One kind of object: its class in NYUD-v2, PASCAL VOC and PASCAL-Context; whether it is salient."""

    nyu: str
    voc: str
    context: str
    salient: bool = False


THINGS: dict[str, Thing] = {
    "wall": Thing("wall", "background", "wall"),
    "floor": Thing("floor", "background", "floor"),
    "ceiling": Thing("ceiling", "background", "ceiling"),
    "bed": Thing("bed", "background", "bed"),
    "books": Thing("books", "background", "book"),
    "bookshelf": Thing("bookshelf", "background", "shelves"),
    "bottle": Thing("otherprop", "bottle", "bottle"),
    "box": Thing("box", "background", "box"),
    "cabinet": Thing("cabinet", "background", "cabinet"),
    "chair": Thing("chair", "chair", "chair"),
    "curtain": Thing("curtain", "background", "curtain"),
    "desk": Thing("desk", "diningtable", "desk"),
    "dog": Thing("otherprop", "dog", "dog", salient=True),
    "door": Thing("door", "background", "door"),
    "lamp": Thing("lamp", "background", "light"),
    "person": Thing("person", "person", "person", salient=True),
    "picture": Thing("picture", "background", "picture"),
    "pillow": Thing("pillow", "background", "pillow"),
    "plant": Thing("otherprop", "pottedplant", "pottedplant"),
    "rug": Thing("floor mat", "background", "rug"),
    "sofa": Thing("sofa", "sofa", "sofa"),
    "table": Thing("table", "diningtable", "table"),
    "toy": Thing("otherprop", "background", "toy", salient=True),
    "tv": Thing("television", "tvmonitor", "tvmonitor"),
    "window": Thing("window", "background", "window"),
}

THING_NAMES = tuple(THINGS)

NYU_LABELS = tuple(NYU_CLASSES.index(thing.nyu) for thing in THINGS.values())
"""Per thing, its label of the 40-class NYUD task (0..39)."""
VOC_LABELS = tuple(VOC_CLASSES.index(thing.voc) for thing in THINGS.values())
"""Per thing, its label of the 21-class PASCAL task."""

# fmt: off
# Numbers that PASCAL-Context's own list of 459 classes gives these names; the rest follow it.
_KNOWN_CONTEXT = {
    "bed": 18, "book": 33, "bottle": 34, "cabinet": 46, "ceiling": 68, "chair": 72, "curtain": 105,
    "dog": 113, "door": 115, "floor": 158, "light": 232, "person": 284, "pottedplant": 308, "shelves": 349,
    "sofa": 368, "table": 397, "tvmonitor": 427, "wall": 440, "window": 454,
}
# fmt: on

_OTHERS = sorted({thing.context for thing in THINGS.values()} - set(_KNOWN_CONTEXT))
CONTEXT_CLASSES: dict[str, int] = {
    **_KNOWN_CONTEXT,
    **{name: 460 + i for i, name in enumerate(_OTHERS)},
    "unknown": 0,
}
"""context_classes.json: class name -> number in LabelMap."""
CONTEXT_LABELS = tuple(CONTEXT_CLASSES[thing.context] for thing in THINGS.values())
"""Per thing, its number in PASCAL-Context's LabelMap."""

# fmt: off
PART_NAMES = (
    "", "head", "hair", "neck", "torso", "luarm", "ruarm", "llarm", "rlarm", "lhand", "rhand", "luleg",
    "ruleg",
    "llleg", "rlleg", "lfoot", "rfoot", "leye", "reye", "nose",
)
# fmt: on
"""Parts of a person by PASCAL-Part's names; index 0 is no part."""
