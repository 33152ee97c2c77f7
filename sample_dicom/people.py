"""The invented patients, one for each character set, and the equipment that made their pictures."""

from __future__ import annotations

from headers import Equipment, Patient

GERMAN = Patient(("ISO_IR 100",), "Weißmüller^Jörg", "SAMPLE-0001", "19580411", "M", 1.79, 84.5)
JAPANESE = Patient(
    ("ISO 2022 IR 6", "ISO 2022 IR 87"), "Mizuno^Haruka=水野^遥=みずの^はるか", "SAMPLE-0002", "19840923", "F", 1.61, 52
)
GREEK = Patient(("ISO_IR 126",), "Παπακώστας^Νίκος", "SAMPLE-0003", "19710205", "M", 1.74, 77)
CYRILLIC = Patient(("ISO_IR 144",), "Ковалёва^Анна^Сергеевна", "SAMPLE-0004", "19660730", "F", 1.68, 71)
ARABIC = Patient(("ISO_IR 127",), "الحداد^سليم", "SAMPLE-0005", "19520118", "M", 1.72, 80)
UNICODE = Patient(("ISO_IR 192",), "Nguyễn^Thị Hương=阮^氏香", "SAMPLE-0006", "19900612", "F", 1.57, 49)
PLAIN = Patient((), "Pattern^Constance", "SAMPLE-0007", "19990101", "O", 1.7, 70)

CT_SCANNER = Equipment(
    "Sample Imaging Works",
    "Tomograph 64",
    "CT-10021",
    "5.2.1",
    "CT01",
    "Städtisches Klinikum Musterstadt",
    "Radiologie",
)
MR_SCANNER = Equipment("Sample Imaging Works", "Resonance 1.5T", "MR-30077", "XA20", "MR02", "見本病院", "放射線科")
MR_SCANNER_GREEK = Equipment(
    "Sample Imaging Works", "Resonance 3T", "MR-30112", "XA31", "MR05", "Πρότυπο Νοσοκομείο", "Ακτινολογικό"
)
ULTRASOUND = Equipment(
    "Sample Imaging Works", "Echo 9", "US-55310", "2.8", "US03", "Образцовая больница", "Кардиология"
)
ELECTROCARDIOGRAPH = Equipment(
    "Sample Imaging Works", "Cardiograph 12", "ECG-7741", "1.4", "ECG1", "مستشفى النموذج", "قسم القلب"
)
RADIOGRAPHY = Equipment(
    "Sample Imaging Works", "Plate Reader 2", "CR-00981", "3.0", "CR01", "Bệnh viện Mẫu", "Chẩn đoán hình ảnh"
)
CAPTURE = Equipment("Sample Imaging Works", "Capture 1", "SC-00001", "1.0", "SC01", "Sample Hospital", "Physics")
