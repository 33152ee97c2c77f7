"""The DIMSE door: associations in, Session calls, DIMSE responses out. PS3.7, PS3.8, PS3.4 Annexes A, B and C."""
