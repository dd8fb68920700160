"""What makes a snapshot stale besides its age, as far as one process has found out."""

from __future__ import annotations

from ..declaration import Declaration
from ..store.snapshot import Snapshot
from ..store.sweeping import is_heavy

# For a child process: the generation of the rebuild to take for stale, and of the one whose items are damaged.
Findings = tuple[int | None, int | None]


class Staleness:
    """Which snapshots of one list are to be replaced. Each method says what holds afterwards."""

    def __init__(self, declaration: Declaration, code_started: int) -> None:
        """:param code_started: when this server started, in nanoseconds."""
        self._digest = declaration.digest
        self._is_value = declaration.kind == "value"
        self._code_started = code_started
        self._is_serving = False
        self._stale_rebuild: int | None = None
        self._stale_generation: int | None = None
        self._damaged_rebuild: int | None = None
        self._newest = 0  # the highest generation seen
        self._examined: Snapshot | None = None
        self._is_examined_stale = False
        self.is_from_newer_code = False  # whether the snapshot examined last is; then this process leaves it alone

    def applies_to(self, snapshot: Snapshot) -> bool:
        """Whether this snapshot is stale; costs a few comparisons."""
        if snapshot is not self._examined:
            self._examine(snapshot)
        return (
            self._is_examined_stale
            or snapshot.rebuilt == self._stale_rebuild
            or snapshot.generation == self._stale_generation
        )

    def _examine(self, snapshot: Snapshot) -> None:
        """Find out, when this process first sees a snapshot, what will always be true of it."""
        header = snapshot.header
        mismatch = header["declaration"] != self._digest
        # Somebody may have restored a backup of the folder.
        is_older = snapshot.generation < self._newest
        self._newest = max(self._newest, snapshot.generation)
        is_passing = snapshot.is_invalidated or snapshot.is_unsettled or not snapshot.complete
        # A child of the previous server may publish long after that server's end.  What this server's own code has
        # made is never too old, even if the clock was set back since: the list would be rebuilt for ever.
        is_of_before = self._is_serving and max(header["started"], header["code_started"]) < self._code_started
        self._is_examined_stale = mismatch or is_passing or is_older or is_of_before or is_heavy(snapshot)
        # Without this, old and new workers of a rolling deploy would replace each other's snapshots for ever.
        self.is_from_newer_code = mismatch and header["code_started"] > self._code_started
        self._examined = snapshot

    def serve(self) -> None:
        """Call a snapshot stale from now on if its rebuild began before this server started."""
        self._is_serving = True
        self._examined = None

    def require_newer_than(self, rebuilt: int) -> None:
        """Call what the rebuild of this generation has published stale, with all later writes to it.

        Only a newer rebuild ends this; a write does not, since it changes single items.
        """
        self._stale_rebuild = rebuilt

    def require_successor_of(self, generation: int) -> None:
        """Call the snapshot of exactly this generation stale; a rebuild ends this, and so does a write."""
        self._stale_generation = generation

    def note_damage(self, snapshot: Snapshot) -> None:
        """Call a snapshot stale whose files are not what was written; no rebuild may reuse its items."""
        self._stale_rebuild = self._damaged_rebuild = snapshot.rebuilt

    def may_reuse(self, snapshot: Snapshot) -> bool:
        """Whether a rebuild may take unchanged items over from this snapshot."""
        return not snapshot.is_cold and (
            snapshot.is_value == self._is_value and snapshot.rebuilt != self._damaged_rebuild
        )

    def findings(self, due: Snapshot | None) -> Findings:
        """Return what a child process must know, which has not seen why a snapshot is due or is damaged."""
        return self._stale_rebuild if due is None else due.rebuilt, self._damaged_rebuild

    def adopt(self, findings: Findings) -> None:
        """Take over, in a child process, the findings of its parent: the same snapshots are stale and damaged."""
        self._stale_rebuild, self._damaged_rebuild = findings
