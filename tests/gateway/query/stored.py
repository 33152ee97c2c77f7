"""Five studies of five patients for the tests of ``query``, one instance each, sent by C-STORE."""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset
from pynetdicom import AE

from tests import synthetic
from tests.pacing import paced

NAMES = ("q水野^遥", "qDoe^Jane", "qMüller^Jörg", "qEvil^\x1b[2J", "q=HYPERLINK")


def data_sets():
    for number, name in enumerate(NAMES, 1):
        data_set = Dataset()
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = synthetic.EXPLICIT
        data_set.SpecificCharacterSet = "ISO_IR 192"
        data_set.SOPClassUID = synthetic.SECONDARY_CAPTURE
        data_set.SOPInstanceUID = f"2.25.70{number}2"
        data_set.StudyInstanceUID = f"2.25.700{number}"
        data_set.SeriesInstanceUID = f"2.25.701{number}"
        data_set.StudyDate = f"2024010{number}"
        data_set.StudyTime = "120000"
        data_set.StudyID = data_set.AccessionNumber = str(number)
        data_set.PatientID = f"query-{number}"
        data_set.PatientName = name
        data_set.Modality = "OT"
        data_set.SeriesNumber = data_set.InstanceNumber = number
        yield data_set


def send_studies(host, port, called):
    """Send them to an SCP."""
    ae = AE("SENDER")
    ae.add_requested_context(synthetic.SECONDARY_CAPTURE, synthetic.EXPLICIT)
    association = paced(ae.associate(host, port, ae_title=called))
    assert association.is_established
    for data_set in data_sets():
        assert association.send_c_store(data_set).Status == 0
    association.release()
