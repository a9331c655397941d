"""Write bags as shards on a Dask cluster: here, or wherever a scheduler listens.

On one machine, which starts a cluster of its own::

    python examples/shard_on_dask.py bags shards

On a cluster (SLURM, Kubernetes, a few hosts), start its scheduler and workers as Dask's manual
says, ``dask scheduler`` and ``dask worker``, and name the scheduler::

    python examples/shard_on_dask.py bags shards --scheduler tcp://10.0.0.1:8786

Bags and shards must lie where all workers see them; the times of bags, which are read first, are
kept under ``XDG_CACHE_HOME``: put it there too. Shards are the same, byte for byte, whoever writes
them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dask.distributed import Client, LocalCluster

from scaleevent_ros.data.sharding import ShardOptions, write_shards


def main() -> None:
    """Run the job on the cluster's executor."""
    parser = argparse.ArgumentParser(description="Write bags as shards on a Dask cluster.")
    parser.add_argument("bags", help="a bag, a folder of bags, or a pattern")
    parser.add_argument("shards", type=Path, help="the folder to write")
    parser.add_argument("--scheduler", help="of a cluster that runs already")
    parser.add_argument("--workers", type=int, default=2, help="of a cluster on this machine")
    arguments = parser.parse_args()
    address = arguments.scheduler or LocalCluster(arguments.workers, threads_per_worker=1)
    with Client(address) as client, client.get_executor() as executor:
        bags = str(Path(arguments.bags).resolve())
        manifest = write_shards(bags, arguments.shards.resolve(), ShardOptions(), executor=executor)
    print(f"{sum(shard.samples for shard in manifest.shards)} samples in {arguments.shards}")


if __name__ == "__main__":
    main()
