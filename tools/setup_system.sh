#!/bin/sh
# System packages, only where they are missing: setup_system.sh [python] [data] [chromium]
#   python    an interpreter that can make virtual environments
#   data      the Fashion-MNIST files, linked into data/fashion-mnist/
#   chromium  the browser that the tests of the report use
# Installs with apt-get where it may (root, or sudo without a password); elsewhere says in one line what to install.
set -eu
cd "$(dirname "$0")/.."
DATA=data/fashion-mnist
SYSTEM_DATA=/usr/share/datasets/fashion-mnist
FILES="train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz"
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

have_python() { tools/find_python.sh >/dev/null 2>&1; }
have_data() { for file in $FILES; do [ -s "$1/$file" ] || return 1; done; }
have_chromium() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

# apt_install WHAT-TO-DO-ELSEWHERE PACKAGE...
apt_install() {
    elsewhere=$1
    shift
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: $elsewhere" >&2
        exit 1
    elif [ "$(id -u)" -eq 0 ]; then
        as_root="env"
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n env"
    else
        echo "error: needs system packages; run: sudo apt-get update && sudo apt-get install -y $*" >&2
        exit 1
    fi
    echo "installing system packages: $*"
    $as_root apt-get update -qq >"$LOG" 2>&1 || { sleep 5; $as_root apt-get update -qq >"$LOG" 2>&1; } || failed
    $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$LOG" 2>&1 || failed
}

failed() {
    tail -n 20 "$LOG" >&2
    echo "error: apt-get failed, see above" >&2
    exit 1
}

for part in "$@"; do
    case $part in
        python)
            have_python || apt_install "install Python 3.10 to 3.13 with the module venv" python3 python3-venv
            ;;
        data)
            have_data $DATA && continue
            have_data $SYSTEM_DATA || apt_install \
                "put the four Fashion-MNIST files (github.com/zalandoresearch/fashion-mnist: $FILES) into $DATA/" \
                dataset-fashion-mnist
            mkdir -p $DATA
            for file in $FILES; do ln -sf "$SYSTEM_DATA/$file" "$DATA/$file"; done
            ;;
        chromium)
            have_chromium || apt_install "install Chromium or Google Chrome (the tests of the report use it)" chromium
            ;;
        *)
            echo "error: unknown part $part; known: python data chromium" >&2
            exit 2
            ;;
    esac
done
