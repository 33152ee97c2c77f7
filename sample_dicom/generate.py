"""Write the synthetic DICOM samples, their manifest and its table, or check that what is there is what was written.

    python sample_dicom/generate.py                    rewrite the samples
    python sample_dicom/generate.py --output FOLDER    write them elsewhere
    python sample_dicom/generate.py --check            compare files, manifest and README; exit code 1 if they differ

Two runs write the same bytes. The files in JPEG, JPEG 2000 and deflate depend on the version of their codec as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

import chest_study
import ct_results
import ct_study
import ecg_study
import encoding_study
import enhanced_ct
import mr_study
import pattern_study
import ultrasound_study
from pydicom.uid import UID
from writing import Sample, write

HERE = Path(__file__).resolve().parent
STUDIES = (
    ct_study, enhanced_ct, ct_results, mr_study, encoding_study,
    ultrasound_study, ecg_study, chest_study, pattern_study,
)  # fmt: skip
MAXIMUM_TOTAL_BYTES = 6_000_000


class Entry(TypedDict):
    """One file of the manifest. rows, columns and frames are null for what is not an image."""

    file: str
    exercises: str
    sop_class: str
    sop_class_name: str
    transfer_syntax: str
    transfer_syntax_name: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    rows: int | None
    columns: int | None
    frames: int | None
    size_bytes: int
    sha256: str


def entry(sample: Sample, folder: Path) -> Entry:
    """What the manifest says of a written sample."""
    dataset, data = sample.dataset, (folder / sample.path).read_bytes()
    has_pixels = "PixelData" in dataset
    return Entry(
        file=sample.path,
        exercises=sample.exercises,
        sop_class=str(dataset.SOPClassUID),
        sop_class_name=UID(dataset.SOPClassUID).name,
        transfer_syntax=str(sample.transfer_syntax),
        transfer_syntax_name=sample.transfer_syntax.name,
        study_instance_uid=str(dataset.StudyInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        rows=int(dataset.Rows) if has_pixels else None,
        columns=int(dataset.Columns) if has_pixels else None,
        frames=int(dataset.get("NumberOfFrames", 1)) if has_pixels else None,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def generate(folder: Path) -> list[Entry]:
    """Write every sample below ``folder``, and the manifest and README that describe them.

    Files of an earlier manifest go first; no other file is touched.
    """
    for row in listed_entries(folder):
        (folder / row["file"]).unlink(missing_ok=True)
    entries = []
    for module in STUDIES:
        for sample in module.samples():
            write(sample, folder)
            entries.append(entry(sample, folder))
    (folder / "manifest.json").write_text(manifest_text(entries), encoding="utf-8")
    (folder / "README.md").write_text(readme_text(entries), encoding="utf-8")
    return entries


def manifest_text(entries: list[Entry]) -> str:
    """The manifest as JSON."""
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


_PREFACE = """\
# Synthetic DICOM samples

{files} instances of {studies} studies, {megabytes:.1f} MB. Patients, people, institutions and findings are invented;
the pictures are computed: no patient ever was examined for them. Licence: that of the repository (Apache-2.0).

`python sample_dicom/generate.py` writes them, this table and `manifest.json`; `--check` compares them and exits with 1
if anything differs. The bytes are the same in every run; those of the JPEG, JPEG 2000 and deflated files also depend
on the version of the codec. The Japanese institution holds a character whose second byte is that of the backslash,
which separates nothing there (PS3.5 §6.1.2.3): a reader that splits bytes finds two values.

How to see that a picture is right: every one carries a **filled triangle in its upper right part, right angle to the
upper right** (the PDF too; the masks of the segmentation do not, they lie on the CT). In axial CT and MR and in the
chest radiograph that is the patient's left; noses and bellies point up, in the sagittal MR the nose points left; lungs
are dark and bones are bright; the table of the CT is at the bottom. Colour bars read white, yellow, cyan, green,
magenta, red, blue, black; wedges grow from left to right. In the ultrasound the grey bar is white at its top and red
lies above blue in the flow bar. The hand of the clocks turns clockwise with the frame number, and each frame has as
many dots below as its number.

| file | what it exercises | SOP class | transfer syntax | size | sha256 |
|---|---|---|---|---|---|
"""


def listed_entries(folder: Path) -> list[Entry]:
    """The manifest below ``folder``; empty if there is none."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return []
    return cast("list[Entry]", json.loads(manifest.read_text(encoding="utf-8")))


def readme_text(entries: list[Entry]) -> str:
    """README.md: how to judge the pictures, and the manifest as a table."""
    preface = _PREFACE.format(
        files=len(entries),
        studies=len({row["study_instance_uid"] for row in entries}),
        megabytes=sum(row["size_bytes"] for row in entries) / 1e6,
    )
    rows = (
        f"| [{row['file']}]({row['file']}) | {row['exercises']}{_shape(row)} | {row['sop_class_name']} | "
        f"{row['transfer_syntax_name']} | {row['size_bytes']} | `{row['sha256']}` |\n"
        for row in entries
    )
    return preface + "".join(rows)


def _shape(row: Entry) -> str:
    if row["rows"] is None:
        return ""
    frames = f", {row['frames']} frames" if row["frames"] != 1 else ""
    return f" ({row['columns']} x {row['rows']}{frames})"


def differences(folder: Path) -> Iterator[str]:
    """What is not as the manifest says, one line each: files, digests, the table, the total size."""
    entries = listed_entries(folder)
    if not entries:
        yield "manifest.json is missing or empty"
    listed, present = (
        {row["file"] for row in entries},
        {path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm")},
    )
    yield from (f"{name} is missing" for name in sorted(listed - present))
    yield from (f"{name} is not in the manifest" for name in sorted(present - listed))
    for row in entries:
        path = folder / row["file"]
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            yield f"{row['file']} differs from its sha256"
    if not (folder / "README.md").is_file() or (folder / "README.md").read_text(encoding="utf-8") != readme_text(
        entries
    ):
        yield "README.md differs from the manifest"
    total = sum(row["size_bytes"] for row in entries)
    if total >= MAXIMUM_TOTAL_BYTES:
        yield f"the samples have {total} bytes; the limit is {MAXIMUM_TOTAL_BYTES}"


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write or check the synthetic DICOM samples.")
    parser.add_argument("--check", action="store_true", help="compare files, manifest and README, write nothing")
    parser.add_argument(
        "--output", type=Path, default=HERE, metavar="FOLDER", help="where (default: beside this script)"
    )
    arguments = parser.parse_args()
    if arguments.check:
        found = list(differences(arguments.output))
        print("\n".join(found) if found else "The samples are what the manifest says.")
        return 1 if found else 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    entries = generate(arguments.output)
    print(f"{len(entries)} files, {sum(row['size_bytes'] for row in entries)} bytes in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
