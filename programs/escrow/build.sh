#!/usr/bin/env bash
# Builds the escrow program into programs/escrow.so and prints its SHA-256. The same bytes on every machine with the
# same toolchain (programs/install-toolchain.sh). `--check` builds and compares with the committed programs/escrow.so.sha256,
# leaving the committed program alone; it exits 1 on a difference.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="$(dirname "$here")"
target=bpfel-unknown-none

export RUSTC="${ESCROW_RUSTC:-/usr/bin/rustc}"
export PATH="$HOME/.cargo/bin:$PATH"
command -v sbpf-linker >/dev/null || { echo "sbpf-linker is missing: run programs/install-toolchain.sh" >&2; exit 3; }
[ -x "$RUSTC" ] || { echo "$RUSTC is missing: run programs/install-toolchain.sh" >&2; exit 3; }

# target_os: Pinocchio reads sysvars only where it is "solana". v0: what every cluster runs. Remapped paths: panics name
# their file, and no machine's folders may be in the program.
cargo_home="${CARGO_HOME:-$HOME/.cargo}"
sources="$(echo "$cargo_home"/registry/src/*/)"
flags="-C linker=sbpf-linker -C panic=abort -C relocation-model=static"
flags+=" -C link-arg=--arch=v0 -C link-arg=--llvm-args=-bpf-stack-size=4096"
flags+=" --cfg target_os=\"solana\" -A explicit_builtin_cfgs_in_flags"
for folder in $sources; do flags+=" --remap-path-prefix=${folder%/}=crates"; done
flags+=" --remap-path-prefix=$here=escrow"
export CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS="$flags"

cd "$here"
cargo fetch --locked --quiet
cargo build --release --locked --target "$target" --quiet --lib
built="${CARGO_TARGET_DIR:-$here/target}/$target/release/libescrow.so"
hash="$(sha256sum "$built" | cut -d' ' -f1)"
echo "$hash"

if [ "${1:-}" = "--check" ]; then
  want="$(cut -d' ' -f1 "$out/escrow.so.sha256")"
  have="$(sha256sum "$out/escrow.so" | cut -d' ' -f1)"
  [ "$have" = "$want" ] || { echo "programs/escrow.so is $have, not $want" >&2; exit 1; }
  [ "$hash" = "$want" ] || { echo "this build is $hash, not $want" >&2; exit 1; }
else
  cp "$built" "$out/escrow.so"
  echo "$hash  escrow.so" > "$out/escrow.so.sha256"
fi
