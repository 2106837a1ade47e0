#!/usr/bin/env bash
# Installs what programs/escrow/build.sh needs on a fresh Debian machine: Debian's rustc for the web with its prebuilt
# core library for BPF, LLVM 22, and sbpf-linker. Needs root for apt-get, and cargo. About three minutes on two cores the
# first time; a second run changes nothing. Prints the versions that decide the program's bytes.
set -euo pipefail

LINKER=0.2.6 # 0.2.1 silently drops the arguments of syscalls
PACKAGES=(rustc-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev)
LLVM=/usr/lib/llvm-22

if ! dpkg -s "${PACKAGES[@]}" >/dev/null 2>&1; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}"
fi

linker="${CARGO_HOME:-$HOME/.cargo}/bin/sbpf-linker"
have="$("$linker" --version 2>/dev/null || true)"
if [[ "$have" != *"$LINKER"* ]]; then
  # --locked: the dependencies it was published with. It does not find LLVM's shared library by itself.
  RUSTFLAGS="-L native=$LLVM/lib" LLVM_PREFIX="$LLVM" \
    cargo install sbpf-linker --version "$LINKER" --locked --force --no-default-features --features bpf-linker/llvm-22
fi

/usr/bin/rustc --version
"$linker" --version
