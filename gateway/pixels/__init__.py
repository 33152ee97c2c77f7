"""The pixels room: one frame as stored becomes a picture. It knows no archive, no protocol and no whole object.

Its input is what the archive keeps: the metadata of an instance in the DICOM JSON Model, the transfer syntax UID and
the bytes of one frame. ``description`` reads the metadata; ``decode`` makes stored values of the bytes; ``luts`` makes
display values of those; ``render`` makes JPEG, PNG or GIF, and with ``softcopy`` what a presentation state wants of
it; ``icons`` draws what stands for an object without a picture; ``pool`` does all this in worker processes with limits
on time, memory and queue (L12). PS3.4 §N.2.
"""
