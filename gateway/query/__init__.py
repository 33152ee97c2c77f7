"""Ask any server what it has, as a client: by QIDO-RS or by C-FIND. Nothing here opens our own archive."""
