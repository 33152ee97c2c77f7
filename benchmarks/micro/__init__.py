"""Speed of parts, each alone in this process: ``python -m benchmarks.micro``. For seeing what a change did to one."""
