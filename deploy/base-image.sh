#!/bin/sh
# Makes a runtime base image of the distribution's own packages, for machines that reach no image
# registry: debootstrap into a temporary folder, what a container never needs left out, `docker import`.
#
#   deploy/base-image.sh [IMAGE]          IMAGE is keelson-base unless named
#
# Needs root, debootstrap, docker, and a mirror of the distribution's packages. SUITE chooses the
# release (this system's, unless set; the program must have been linked on the same), MIRROR the mirror.
set -eu

image=${1:-keelson-base}
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
for program in debootstrap docker tar; do
  command -v "$program" >/dev/null || { echo "base-image: $program is missing" >&2; exit 1; }
done
[ "$(id -u)" -eq 0 ] || { echo "base-image: debootstrap needs root" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
# libstdc++6: RocksDB is C++.
debootstrap --variant=minbase --include=libstdc++6 "$suite" "$root" ${MIRROR:+"$MIRROR"} >"$folder/log" 2>&1 \
  || { tail -n 20 "$folder/log" >&2; echo "base-image: debootstrap failed" >&2; exit 1; }

# Package lists, documents, translations and this machine's name resolution are of no use in there.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/var/cache/debconf/*-old \
  "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale \
  "$root"/usr/share/i18n "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/etc/apt/apt.conf.d/*proxy*
find "$root/dev" -mindepth 1 -delete
tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["/bin/sh"]' - "$image" >/dev/null
docker image inspect --format "$image: {{.Size}} bytes" "$image"
