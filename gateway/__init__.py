"""The doors of the archive: DIMSE, DICOMweb and web, and the tools they share. PS3.7, PS3.18."""

__version__ = "0.1.0"
