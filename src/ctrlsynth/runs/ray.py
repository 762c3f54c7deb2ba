"""The Ray engine: runs the local engine's pipeline of a part on the actors of Ray Data, one pool per stage,
on all machines of a cluster.

A Ray data set of part numbers passes through the pools in the order of the steps; rows and images pass
through the run's folder, never through Ray. So a part of a stage starts when its own upstream parts exist,
and a crash is repaired by making a part again or finding that it exists. Steps whose pools do not fit into
the cluster together, and those after a barrier, start when the ones before are done.

If an actor or a node dies, Ray restarts actors and calls. If nodes are lost for good, the pools are planned
again for the remaining ones. If the driver dies, Ray ends its actors, and the same command continues from the
folder."""

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import UserError, WorkFailed, first_line
from ..models.device import quiet_native_threads
from ..recipe.schema import RayPool
from ..storage.files import temporary, write_json
from ..storage.location import Location
from ..storage.parts import RunFolder
from .build import Workshop, build_one
from .ledger import Ledger
from .local import Pipeline, fewer_collections
from .part import gather
from .plan import Plan
from .watch import Watcher

POLL_SECONDS = 0.5
"""Time between two polls of the actors' messages and of the nodes that are alive."""
BEGINS = 20
"""Most starts of a part, each by another actor; more deaths than that are the part's fault, not a
machine's."""
_QUIET = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}


def execute(
    workshop: Workshop,
    run: RunFolder,
    watcher: Watcher | None = None,
    retry: bool = False,
    address: str | None = None,
) -> None:
    """Makes every missing part on the cluster at `address` (`auto`, `host:port`), else RAY_ADDRESS, one that
    runs here, or a new one.

    Raises UserError for a node that cannot read the run's folder or would make other rows, and for a stage
    that does not fit on any node."""
    plan = workshop.plan
    with connected(address):
        chain = _chain()  # its process starts while the nodes look for the folder
        try:
            every_node_sees(run.root)
            number = 0
            while number < len(plan.steps):
                folders = _together(plan, number, _nodes())
                work = _Work(workshop, run, folders, number, watcher or Watcher(), retry, chain)
                if work.done():
                    number += len(folders)
                else:
                    ray.kill(chain)
                    chain = _chain()
        finally:
            ray.kill(chain)
    run.sweep_leftovers()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Joins the cluster at `address` (as `execute`), unless this process is in one already. Raises UserError
    if there is none."""
    if ray.is_initialized():
        yield
        return
    where = f"--address {address}" if address else f"RAY_ADDRESS {os.environ.get('RAY_ADDRESS', '(not set)')}"
    _answers(address or os.environ.get("RAY_ADDRESS", ""), where)
    try:
        ray.init(address=address, **_QUIET)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        raise UserError(
            f"{where}: no Ray cluster that lets this process in ({first_line(error)}); a cluster that asks "
            f"for a token is joined with RAY_AUTH_MODE=token"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _answers(address: str, where: str) -> None:
    """Raises UserError at once if nothing listens at `host:port`; Ray itself would try for two minutes."""
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{where}: nothing answers there ({getattr(error, 'strerror', None) or error})"
        ) from error


def _nodes() -> dict[str, dict[str, float]]:
    """Id of every node that is alive -> its CPUs, GPUs and address."""
    return {
        n["NodeID"]: {**n["Resources"], "name": n["NodeManagerAddress"]} for n in ray.nodes() if n["Alive"]
    }


def _on(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False), "num_cpus": 0}


def every_node_sees(root: Location) -> None:
    """Checks that every node can read a token in the run's folder with the same program. Raises UserError
    that names the first that cannot."""
    where = root.absolute() if isinstance(root, Path) else root
    token = where / temporary(where / "token").name
    write_json(token, {"version": version("ctrlsynth")})
    try:
        look = ray.remote(_sees)
        asked = {node: look.options(max_retries=0, **_on(node)).remote(token) for node in _nodes()}
        for node, answer in asked.items():
            name = f"node {_nodes().get(node, {}).get('name', '?')} ({node[:8]})"
            try:
                fault = ray.get(answer, timeout=120)
            except ray.exceptions.RayError as error:
                fault = f"cannot run ctrlsynth ({str(error).strip().splitlines()[-1]})"
            if fault:
                raise UserError(
                    f"{name}: {fault}; every node needs ctrlsynth {version('ctrlsynth')} and the run's "
                    f"folder {where}"
                )
    finally:
        token.unlink(missing_ok=True)


def _sees(token: Location) -> str:
    """Runs on a node: returns why it cannot work on the run, or an empty string."""
    try:
        found = token.read_text(encoding="utf-8")
    except (OSError, UserError, WorkFailed) as error:
        return f"cannot read the run's folder ({first_line(error)})"
    ours = version("ctrlsynth")
    return "" if f'"version": "{ours}"' in found else f"has ctrlsynth {ours}"


def _pool(plan: Plan, folder: str) -> RayPool:
    """The recipe's pool for a stage: by its folder, else by its kind."""
    pools = plan.recipe.engines.ray
    return pools.get(folder) or pools.get(plan.step(folder).kind) or RayPool()


def _together(plan: Plan, number: int, nodes: dict[str, dict[str, float]]) -> list[str]:
    """The steps from `number` on whose pools, at their least size, fit on the nodes together, up to the next
    barrier."""
    free = [dict(n) for n in nodes.values()]
    out: list[str] = []
    for step in plan.steps[number:]:
        pool = _pool(plan, step.folder)
        if out and (plan.box(step.folder).barrier or not _fits(pool, free)):
            break
        if not out and not _fits(pool, free):
            wanted = f"{pool.least} x {pool.cpus:g} CPUs, {pool.gpus:g} GPUs"
            raise UserError(
                f"engines.ray: {step.folder} asks for {wanted}, which the cluster of {len(nodes)} nodes does "
                f"not hold"
            )
        out.append(step.folder)
    return out


def _fits(pool: RayPool, free: list[dict[str, float]]) -> bool:
    """Takes the pool's least actors from what is free, each on the first node where it fits."""
    for _ in range(pool.least):
        node = next((n for n in free if n.get("CPU", 0) >= pool.cpus and n.get("GPU", 0) >= pool.gpus), None)
        if node is None:
            return False
        node["CPU"] = node.get("CPU", 0) - pool.cpus
        node["GPU"] = node.get("GPU", 0) - pool.gpus
    return True


@dataclass(frozen=True, slots=True)
class _Job:
    """What the actors of a group need: the plan, what is to be made, by folder and part, and the folder that
    the models' relative paths start from."""

    plan: Plan
    run: RunFolder
    todo: dict[str, dict[int, list[str]]]
    retry: bool
    here: Path


class _Work:
    """Stages that run at once: the driver's side."""

    def __init__(
        self,
        workshop: Workshop,
        run: RunFolder,
        folders: list[str],
        number: int,
        watch: Watcher,
        retry: bool,
        chain: Any,
    ) -> None:
        plan = workshop.plan
        self._plan, self._folders, self._chain = plan, folders, chain
        self._begun: Counter[tuple[str, int]] = Counter()
        self._ledgers = {f: Ledger(plan, run, f, watch) for f in folders}
        found = {f: ledger.begin(number + at) for at, (f, ledger) in enumerate(self._ledgers.items())}
        todo = {f: {part.index: versions for part, versions in todo} for f, todo in found.items() if todo}
        if folders[0] in todo:
            gather(workshop, run, folders[0], watch, spread)
        root = run.root.absolute() if isinstance(run.root, Path) else run.root
        sent = replace(plan, base=plan.base.absolute())
        self._job = _Job(sent, RunFolder(root), todo, retry, Path.cwd())

    def done(self) -> bool:
        """Makes the missing parts. Returns False if nodes were lost and the remaining cluster cannot run
        these stages."""
        try:
            if self._job.todo and not self._made():
                return False
        except BaseException:
            with contextlib.suppress(WorkFailed, ray.exceptions.RayError):
                self._listen()
            for ledger in self._ledgers.values():
                with contextlib.suppress(OSError, WorkFailed):
                    ledger.save()
            raise
        for ledger in self._ledgers.values():
            ledger.complete()
        return True

    def _made(self) -> bool:
        pools = {f: _pool(self._plan, f) for f in self._folders if f in self._job.todo}
        first = [s.folder for s in self._plan.steps].index(self._folders[0])
        try:
            answer, nodes = self._chain.run.remote(self._job, pools, self._chain), _nodes()
            while not ray.wait([answer], timeout=POLL_SECONDS)[0]:
                self._listen()
                alive = _nodes()
                lost = nodes.keys() - alive.keys()
                if lost and len(_together(self._plan, first, alive)) < len(self._folders):
                    return False
                nodes = alive
            stopped = ray.get(answer)
            self._listen()
        except ray.exceptions.RayActorError as error:
            raise WorkFailed(
                f"{', '.join(pools)}: actors die again and again ({first_line(error)}); see Ray's logs"
            ) from error
        if stopped:
            raise (UserError if stopped.startswith("U") else WorkFailed)(stopped[1:])
        return True

    def _listen(self) -> None:
        """Passes the actors' messages to the ledgers."""
        for what, folder, *facts in ray.get(self._chain.take.remote()):
            if folder not in self._ledgers:
                continue
            if what == "begin":
                self._begun[folder, facts[0]] += 1
                if self._begun[folder, facts[0]] > BEGINS:
                    raise WorkFailed(
                        f"{folder}: part {facts[0]} was begun {BEGINS} times and its actor died each time; "
                        f"see Ray's logs"
                    )
            else:
                getattr(self._ledgers[folder], what)(folder, *facts)


def spread(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
    """`map` on the cluster, for a barrier."""
    task, what = ray.remote(_apply), ray.put(function)  # a partial is no task by itself, and may hold much
    waiting: list[Any] = []
    for item in items:
        waiting.append(task.remote(what, item))
        if len(waiting) == 1000:
            yield ray.get(waiting.pop(0))
    for answer in waiting:
        yield ray.get(answer)


def _apply(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


class _Chain:
    """The data set of part numbers and the pools that it passes through; and the messages of their actors,
    until the driver takes them.

    Ray Data runs in an actor of its own, beside the driver, so that it can be stopped at any time together
    with its actors."""

    def __init__(self) -> None:
        self._inbox: list[Any] = []

    @ray.method(concurrency_group="inbox")  # type: ignore[untyped-decorator]
    def add(self, message: Any) -> None:
        self._inbox.append(message)

    @ray.method(concurrency_group="inbox")  # type: ignore[untyped-decorator]
    def take(self) -> list[Any]:
        taken, self._inbox = self._inbox, []
        return taken

    def run(self, job: _Job, pools: dict[str, RayPool], inbox: Any) -> str:
        """Returns why the work stopped (`U` or `W` and the message), or an empty string. `inbox`: this
        actor."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        parts = sorted({index for todo in job.todo.values() for index in todo})
        shared = ray.put(job)
        data = ray.data.from_items(
            [{"part": index, "stopped": ""} for index in parts], override_num_blocks=len(parts)
        )
        for folder, pool in pools.items():
            size = ray.data.ActorPoolStrategy(
                min_size=pool.least, max_size=pool.most or max(pool.least, len(parts))
            )
            data = data.map_batches(
                _Maker, fn_constructor_args=(shared, folder, inbox), batch_size=1, compute=size,
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
            )  # fmt: skip
        for batch in data.iter_batches(batch_size=1, prefetch_batches=0):
            if batch["stopped"][0]:
                return str(batch["stopped"][0])
        return ""


def _chain() -> Any:
    made = ray.remote(concurrency_groups={"inbox": 1})(_Chain)
    return made.options(**_on(ray.get_runtime_context().get_node_id())).remote()


class _Maker(Watcher):
    """One actor of a stage's pool: makes the part that a batch names, unless it exists or the work has
    stopped."""

    def __init__(self, job: Any, folder: str, inbox: Any) -> None:
        self._shared, self._folder, self._inbox = job, folder, inbox
        self._tools: tuple[_Job, Workshop] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        stopped = str(batch["stopped"][0]) or self._make(int(batch["part"][0]))
        return {"part": batch["part"], "stopped": [stopped]}

    def _make(self, index: int) -> str:
        try:
            # not in the constructor, so that an error is reported in one line
            self._tools = self._tools or self._begin()
            job, workshop = self._tools
            versions = job.todo[self._folder].get(index)
            if versions is not None:
                self._inbox.add.remote(("begin", self._folder, index))
                with fewer_collections():
                    part = workshop.plan.parts[index]
                    Pipeline(workshop, job.run, self._folder, self, job.retry).run([(part, versions)])
        except (UserError, WorkFailed) as error:
            where = ray.util.get_node_ip_address()
            return f"{'U' if isinstance(error, UserError) else 'W'}{error} (on node {where})"
        return ""

    def _begin(self) -> tuple[_Job, Workshop]:
        """Gets the job, changes to the folder that it was started in, if it exists here, and builds the
        stage."""
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        # a Ray that was started by a driver has the driver's number here
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus)))
        quiet_native_threads()
        job = cast(_Job, ray.get(self._shared))
        if job.here.is_dir():
            os.chdir(job.here)
        job.run.sweep_leftovers()  # of actors of this machine that were killed
        return job, build_one(job.plan, self._folder)

    def rows(self, folder: str, rows: int, made: int) -> None:
        self._inbox.add.remote(("rows", folder, rows, made))

    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
        self._inbox.add.remote(("part", folder, index, counts))

    def error(self, folder: str, message: str) -> None:
        self._inbox.add.remote(("error", folder, message))
