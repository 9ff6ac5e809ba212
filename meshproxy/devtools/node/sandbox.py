"""The command that runs a container: a process in namespaces of its own (unshare(1), mount_namespaces(7)).

Its files are those of this machine, with the volumes of the pod mounted where the container wants them. A folder that
the machine does not have is made in an overlay, or in a root of the container's own, so nothing is left behind. The
process is the first one of its process
namespace, as in a container: a signal that it does not handle does nothing.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from meshproxy.devtools.node.spec import Container, Spec


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of this machine at another place."""

    source: Path
    target: str
    is_read_only: bool


_BEGIN = """\
set -e
umask 022
# Below / itself nothing can be added by an overlay: only who enters later sees what is mounted on the root, and then
# neither /proc nor /dev. So the root becomes another one, with all that the machine has there.
root() {
  missing=
  for each; do top=${each#/}; [ -d "/${top%%/*}" ] || missing="$missing $each"; done
  [ "$missing" ] || return 0
  mount -t tmpfs -o mode=755 root "$SCRATCH"
  mount --make-unbindable "$SCRATCH"
  for each in /*; do
    if [ -L "$each" ]; then cp -P "$each" "$SCRATCH$each"
    elif [ -d "$each" ]; then mkdir "$SCRATCH$each"; mount --rbind "$each" "$SCRATCH$each"
    else touch "$SCRATCH$each"; mount --bind "$each" "$SCRATCH$each"
    fi
  done
  for each in $missing; do mkdir -p "$SCRATCH$each"; done
  mkdir "$SCRATCH/.machine"
  cd "$SCRATCH"
  PATH="$PATH:/usr/sbin:/sbin" pivot_root . .machine
  cd /
  umount -l /.machine
  rmdir /.machine
}
OVERLAID=
place() {
  [ -d "$1" ] && return
  base=$1; while [ ! -d "$base" ]; do base=$(dirname "$base"); done
  base=$(readlink -f "$base")
  for one in $OVERLAID; do
    case "$base/" in "$one"/*) mkdir -p "$1"; return;; esac
  done
  OVERLAID="$OVERLAID $base"
  new=$(mktemp -d -p "$SCRATCH"); mkdir -m 755 "$new/upper" "$new/work"
  mount -t overlay -o "lowerdir=$base,upperdir=$new/upper,workdir=$new/work" overlay "$base"
  mkdir -p "$1"
}
# Programs in a folder that only root may enter, such as a home: the folder is replaced by one with them alone.
reach() {
  closed=$1; shift
  kept=$(mktemp -d -p "$SCRATCH")
  for each; do mkdir -p "$kept$each"; mount --bind "$each" "$kept$each"; done
  mount -t tmpfs -o mode=755 reach "$closed"
  for each; do mkdir -p "$each"; mount --bind "$kept$each" "$each"; done
}
"""


def script(binds: Iterable[Bind], closed: Mapping[str, Sequence[str]], scratch: Path, command: Sequence[str]) -> str:
    """What the first process does, as a script of sh.

    Args:
        closed: folders that only root may enter, each with those below it that programs need.
        scratch: a folder to mount memory on.
        command: what it becomes.
    """
    ordered = sorted(binds, key=lambda bind: bind.target)
    folders = [bind.target for bind in ordered if bind.source.is_dir()]
    lines = [f"SCRATCH={shlex.quote(str(scratch))}", _BEGIN, shlex.join(("root", *folders))]
    # What overlays add is in memory.
    lines.append('mount -t tmpfs -o mode=755 scratch "$SCRATCH"')
    lines += [shlex.join(("reach", folder, *needed)) for folder, needed in closed.items()]
    # All folders first: an overlay would hide what is mounted below it.
    lines += [shlex.join(("place", folder)) for folder in folders]
    for bind in ordered:
        lines.append(shlex.join(("mount", "--bind", str(bind.source), bind.target)))
        if bind.is_read_only:
            lines.append(shlex.join(("mount", "-o", "remount,bind,ro", bind.target)))
    # Who has started it waits for this line.
    lines += ["cd /", "echo >&0", "exec </dev/null", shlex.join(("exec", *command))]
    return "\n".join(lines)


def first_process(network: Path, text: str) -> list[str]:
    """The command that runs a script as the first process of a container.

    Args:
        network: the network namespace of the pod.
    """
    unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
    return ["nsenter", f"--net={network}", *unshare, "sh", "-c", text]


def further_process(pid: int, command: Sequence[str]) -> list[str]:
    """The command that runs another one in a container.

    Args:
        pid: of its first process, as this machine counts.
    """
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--wdns=/", *command]


def as_user(spec: Spec, container: Container, command: Sequence[str]) -> list[str]:
    """The command, with the user and the capabilities of the container."""
    own, pods = container.security_context, spec.security_context
    user = own.run_as_user if own.run_as_user is not None else pods.run_as_user
    group = own.run_as_group if own.run_as_group is not None else pods.run_as_group
    options = []
    if user is not None:
        groups = "--clear-groups" if pods.fs_group is None else f"--groups={pods.fs_group}"
        options += [f"--reuid={user}", f"--regid={group or 0}", groups]
    if own.capabilities is not None and "ALL" in own.capabilities.drop:
        options += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return ["setpriv", *options, *command] if options else list(command)


def closed_folders(needed: Iterable[Path]) -> dict[str, list[str]]:
    """The outermost folders that only their owners may enter, and what is needed below each."""
    found: dict[str, list[str]] = {}
    for each in needed:
        for parent in reversed(each.parents):
            if not parent.stat().st_mode & 0o001:
                found.setdefault(str(parent), []).append(str(each))
                break
    return found
