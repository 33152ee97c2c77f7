"""A resting electrocardiogram of twelve leads and its printed report, a PDF with the same curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from headers import Series, Study, acquired, code, date, decimals, fields, header, item, items, reference, time
from people import ARABIC, ELECTROCARDIOGRAPH
from phantoms import FloatArray, noise
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, TwelveLeadECGWaveformStorage
from writing import Sample

STUDY = Study(
    "ecg_haddad",
    ARABIC,
    "ECG2302",
    "A2023-02014",
    datetime(2023, 2, 1, 7, 50, 45, tzinfo=UTC),
    "071Y",
    "تخطيط كهربية القلب",
    "النجار^ليلى",
)
RECORDING = Series(STUDY, "recording", 1, "ECG", "اثنا عشر مسرى", ELECTROCARDIOGRAPH, 30)
PRINTOUT = Series(STUDY, "printout", 2, "DOC", "تقرير", ELECTROCARDIOGRAPH, 600)
SAMPLING_HZ, SECONDS = 500, 10
MICROVOLTS_PER_BIT = 2.5

# Lead, MDC code (PS3.16 CID 3001), and for P, Q, R, S and T its height in µV.
_WAVES_AT_S = (0.16, 0.285, 0.31, 0.335, 0.56)
_WAVE_WIDTHS_S = (0.022, 0.008, 0.010, 0.010, 0.045)
_INDEPENDENT = (
    ("Lead I", "2:1", (90, -60, 820, -120, 210)),
    ("Lead II", "2:2", (140, -90, 1220, -190, 300)),
    ("Lead V1", "2:3", (60, 0, 240, -1050, -110)),
    ("Lead V2", "2:4", (80, 0, 480, -1450, 380)),
    ("Lead V3", "2:5", (90, -20, 860, -900, 460)),
    ("Lead V4", "2:6", (100, -60, 1480, -460, 420)),
    ("Lead V5", "2:7", (100, -90, 1380, -240, 330)),
    ("Lead V6", "2:8", (95, -100, 1050, -110, 250)),
)
_DERIVED = (("Lead III", "2:61"), ("aVR", "2:62"), ("aVL", "2:63"), ("aVF", "2:64"))
LEADS = (*_INDEPENDENT[0:2], *_DERIVED, *_INDEPENDENT[2:])


def samples() -> Iterator[Sample]:
    """All files of the study."""
    yield Sample(
        f"{STUDY.folder}/recording/twelve_lead.dcm",
        _recording(),
        f"12-lead ECG: 12 channels, 16 bit, {SAMPLING_HZ} Hz, {SECONDS} s; ISO_IR 127 (Arabic)",
    )
    yield Sample(
        f"{STUDY.folder}/printout/report.dcm",
        _printout(),
        "Encapsulated PDF of one page that draws the curves of the ECG",
    )


def microvolts() -> FloatArray:
    """The curves of ``LEADS``: (samples, leads). III, aVR, aVL and aVF follow from I and II as Einthoven says."""
    moments = np.arange(SAMPLING_HZ * SECONDS) / SAMPLING_HZ
    independent = {name: _curve(moments, heights, name) for name, _, heights in _INDEPENDENT}
    first, second = independent["Lead I"], independent["Lead II"]
    curves = independent | {
        "Lead III": second - first,
        "aVR": -(first + second) / 2,
        "aVL": first - second / 2,
        "aVF": second - first / 2,
    }
    return np.stack([curves[lead[0]] for lead in LEADS], axis=1)


def _curve(moments: FloatArray, heights: tuple[int, ...], seed: str) -> FloatArray:
    """Beats about 0.86 s apart, the sixth one premature, on a slow wave of breathing."""
    curve = 25 * np.sin(2 * math.pi * 0.25 * moments) + noise(moments.shape, 6, "ecg " + seed)
    for beat in range(12):
        start = 0.05 + 0.86 * beat - (0.22 if beat == 5 else 0)
        for at, width, height in zip(_WAVES_AT_S, _WAVE_WIDTHS_S, heights, strict=True):
            curve += height * np.exp(-(((moments - start - at) / width) ** 2) / 2)
    return curve


def _stored() -> npt.NDArray[np.int16]:
    return np.round(microvolts() / MICROVOLTS_PER_BIT).astype(np.int16)


def _recording() -> Dataset:
    stored = _stored()
    dataset = acquired(header(RECORDING, TwelveLeadECGWaveformStorage, 1), RECORDING, 0)
    del dataset.AcquisitionDate, dataset.AcquisitionTime
    group = item(
        TriggerTimeOffset="0",
        WaveformOriginality="ORIGINAL",
        NumberOfWaveformChannels=len(LEADS),
        NumberOfWaveformSamples=len(stored),
        SamplingFrequency=str(SAMPLING_HZ),
        MultiplexGroupLabel="RHYTHM",
        ChannelDefinitionSequence=items(*(_channel(number) for number in range(1, len(LEADS) + 1))),
        WaveformBitsAllocated=16,
        WaveformSampleInterpretation="SS",
        WaveformData=stored.astype("<i2").tobytes(),
    )
    group["WaveformData"].VR = "OW"
    return fields(
        dataset,
        AcquisitionDateTime=RECORDING.start.strftime("%Y%m%d%H%M%S.%f"),
        AcquisitionContextSequence=items(),
        WaveformSequence=items(group),
        OperatorsName="خليل^منى",
    )


def _channel(number: int) -> Dataset:
    name, value, *_ = LEADS[number - 1]
    return item(
        WaveformChannelNumber=number,
        ChannelLabel=name,
        ChannelSourceSequence=items(code(value, "MDC", name)),
        ChannelSensitivity=decimals([MICROVOLTS_PER_BIT])[0],
        ChannelSensitivityUnitsSequence=items(code("uV", "UCUM", "microvolt")),
        ChannelSensitivityCorrectionFactor="1",
        ChannelBaseline="0",
        ChannelSampleSkew="0",
        WaveformBitsStored=16,
        FilterLowFrequency="0.05",
        FilterHighFrequency="150",
        NotchFilterFrequency="50",
    )


def _printout() -> Dataset:
    document = pdf(_curves_on_paper())
    dataset = header(PRINTOUT, EncapsulatedPDFStorage, 1)
    source = reference(TwelveLeadECGWaveformStorage, RECORDING.sop_instance_uid(1))
    source.PurposeOfReferenceCodeSequence = items(code("121112", "DCM", "Source of Measurement"))
    return fields(
        dataset,
        ContentDate=date(PRINTOUT.start),
        ContentTime=time(PRINTOUT.start),
        AcquisitionDateTime=RECORDING.start.strftime("%Y%m%d%H%M%S.%f"),
        ConversionType="WSD",
        BurnedInAnnotation="NO",
        RecognizableVisualFeatures="NO",
        DocumentTitle="تقرير تخطيط القلب",
        ConceptNameCodeSequence=items(code("11524-6", "LN", "EKG study")),
        VerificationFlag="UNVERIFIED",
        SourceInstanceSequence=items(source),
        MIMETypeOfEncapsulatedDocument="application/pdf",
        EncapsulatedDocumentLength=len(document),
        EncapsulatedDocument=document + b"\0" * (len(document) % 2),
    )


def _curves_on_paper() -> str:
    """Drawing operators of an A4 page on its side: millimetre paper, three seconds of every lead, a mark at the top."""
    lines = ["1 0.85 0.85 RG 0.4 w"]
    lines += [f"{x} 40 m {x} 555 l S" for x in range(40, 802, 14)]
    lines += [f"40 {y} m 802 {y} l S" for y in range(41, 556, 14)]
    lines += ["0 0 0 rg 776 548 m 800 548 l 800 524 l f", "0.05 0.05 0.35 RG 0.7 w 1 j"]
    curves = microvolts()
    for lead in range(len(LEADS)):
        left, base = (50, 425)[lead >= len(LEADS) // 2], 500 - 82 * (lead % (len(LEADS) // 2))
        points = [
            f"{left + 0.24 * index:.1f} {base + 0.028 * curves[index, lead]:.1f}"
            for index in range(0, 3 * SAMPLING_HZ, 4)
        ]
        lines.append(points[0] + " m " + " ".join(f"{point} l" for point in points[1:]) + " S")
    return "\n".join(lines)


def pdf(drawing: str) -> bytes:
    """A PDF 1.4 document of one A4 page on its side with ``drawing``, not compressed. ISO 32000-1 §7.5"""
    stream = drawing.encode("ascii")
    bodies = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 842 595] /Contents 4 0 R /Resources << >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    )
    document, offsets = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    entries = b"0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size, start = len(bodies) + 1, len(document)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, start)
    return document + b"xref\n0 %d\n" % size + entries + trailer
