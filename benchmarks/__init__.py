"""Speed: ``python -m benchmarks`` measures servers through real sockets, ``python -m benchmarks.micro`` parts of ours.

Not part of the product; docs/performance.md says how to run and read it. What is where: ``corpus`` (what is sent),
``servers`` (who is measured), ``processes`` (what it costs them), ``senders``, ``dimse``, ``client`` and ``load`` (who
measures), ``workloads`` (the table), ``bench`` (the order of things), ``limits`` (what the machine could do),
``report`` (figures to text and JSON).
"""
