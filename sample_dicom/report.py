"""Content items of structured reports, one function for each value type that the samples use. PS3.3 §C.17.3"""

from __future__ import annotations

from headers import item, items, reference
from pydicom.dataset import Dataset


def container(concept: Dataset, *content: Dataset) -> Dataset:
    """CONTAINER: a heading and what it contains."""
    return item(
        RelationshipType="CONTAINS",
        ValueType="CONTAINER",
        ConceptNameCodeSequence=items(concept),
        ContinuityOfContent="SEPARATE",
        ContentSequence=items(*content),
    )


def text(concept: Dataset, value: str) -> Dataset:
    """TEXT."""
    return item(RelationshipType="CONTAINS", ValueType="TEXT", ConceptNameCodeSequence=items(concept), TextValue=value)


def coded(concept: Dataset, value: Dataset, relationship: str = "CONTAINS") -> Dataset:
    """CODE."""
    return item(
        RelationshipType=relationship,
        ValueType="CODE",
        ConceptNameCodeSequence=items(concept),
        ConceptCodeSequence=items(value),
    )


def measured(concept: Dataset, value: str, unit: Dataset, *sources: Dataset) -> Dataset:
    """NUM: a number with its unit, and what it was inferred from."""
    return item(
        RelationshipType="CONTAINS",
        ValueType="NUM",
        ConceptNameCodeSequence=items(concept),
        MeasuredValueSequence=items(item(NumericValue=value, MeasurementUnitsCodeSequence=items(unit))),
        ContentSequence=items(*sources),
    )


def image(sop_class: str, sop_instance: str, relationship: str) -> Dataset:
    """IMAGE: a reference to an instance."""
    return item(
        RelationshipType=relationship,
        ValueType="IMAGE",
        ReferencedSOPSequence=items(reference(sop_class, sop_instance)),
    )
