# shellcheck shell=bash
# Sourced by bin/demo and bin/test: says what is needed, refuses early, installs what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
# Without bytecode every start of Ansible compiles it anew, which is a third of what it does.
unset PYTHONDONTWRITEBYTECODE

say() { printf '\033[1m%s\033[0m\n' "$*"; }
refuse() { printf 'cannot start: %s\n  next: %s\n' "$1" "$2" >&2; exit 1; }

need() { # need DISK_GB MEMORY_MB: what this machine must offer
  say "This needs: root, Debian 12 or later or Ubuntu 22.04 or later, $1 GB of disk below /var, $2 MB of memory, and a package mirror."
  [ "$(id -u)" = 0 ] || refuse "you are not root, and machines with their own network need it" "sudo $0"
  # shellcheck disable=SC1091
  . /etc/os-release
  case "$ID:${VERSION_ID%%.*}" in
    debian:1[2-9] | ubuntu:2[2-9]) ;;
    *) refuse "this is ${PRETTY_NAME:-an unknown system}" "use Debian 12 or later, or Ubuntu 22.04 or later" ;;
  esac
  local disk memory
  disk=$(df --output=avail -BG /var | tail -n 1 | tr -dc 0-9)
  [ "$disk" -ge "$1" ] || refuse "/var has $disk GB free of the $1 GB needed" "make room, then run $0 again"
  memory=$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
  [ "$memory" -ge "$2" ] || refuse "$memory MB of memory are available of the $2 MB needed" "stop something, then run $0 again"
}

packages() { # packages NAME...: installs the Debian packages that are not there
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] && return
  say "Installing ${missing[*]}"
  apt-get -qq update
  apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

python_of_the_machine() { # the newest Python that the environment can be made from
  local candidate
  for candidate in python3.12 python3.11 python3 python3.13; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

environment() { # .venv as the lock file says
  local python
  python=$(python_of_the_machine)
  if [ -z "$python" ]; then
    # Ubuntu 22.04 has 3.11 beside its own 3.10.
    if [ "$(. /etc/os-release && echo "$ID:$VERSION_ID")" = ubuntu:22.04 ]; then packages python3.11 python3.11-venv; else packages python3 python3-venv; fi
    python=$(python_of_the_machine)
    [ -n "$python" ] || refuse "there is no Python 3.11 or later" "apt-get install python3 python3-venv"
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet 'uv>=0.5'
  UV_LINK_MODE=copy .venv/bin/uv sync --quiet --locked --inexact --python .venv/bin/python
  export PATH="$PWD/.venv/bin:$PATH"
}

lab_packages() { # what the machines of a lab are made with
  local registry=there
  command -v docker-registry >/dev/null || registry=new
  packages systemd-container mmdebstrap iproute2 iptables nftables openssh-client dpkg-dev apt-utils skopeo docker-registry debian-archive-keyring
  # The package starts a registry open to everyone; a lab starts its own, on the lab's address only.
  if [ "$registry" = new ] && [ -d /run/systemd/system ]; then systemctl --quiet disable --now docker-registry.service; fi
}
