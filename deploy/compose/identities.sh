#!/bin/sh
# Makes the cluster's authority and one identity per member, for the administrator and for Prometheus,
# unless they are there. Each goes into a volume of its own; the authority's key stays in a volume that no member mounts.
#
# With RENEW="m1 m2" in the environment it replaces the certificates of these, which members take up by
# themselves; EXPIRES (as 720h) says how long the new ones last.
set -eu
cd /identities

[ -e authority/ca.pem ] || {
  rm -f authority/ca.key
  keelson certs init --name "$CLUSTER_NAME" --dir authority
}

issue() {
  purpose=$1 name=$2
  shift 2
  [ -e "$name/$name.pem" ] && return
  # A key without a certificate is what an interrupted run leaves.
  rm -f "$name/$name.key"
  keelson certs issue "$purpose" "$name" "$@" --ca-dir authority --dir "$name"
}

for name in ${RENEW:-}; do
  rm -rf authority/fresh
  keelson certs issue member "$name" --host "$name" --host localhost --ca-dir authority --dir authority/fresh \
    --expires "${EXPIRES:-8760h}"
  chown keelson:keelson authority/fresh/*
  mv authority/fresh/"$name".key authority/fresh/"$name".pem "$name"/
done

for member in $MEMBERS; do
  # By this name browsers on the host reach its console.
  issue member "$member" --host "$member" --host localhost
done
issue admin admin
issue monitor metrics

for name in $MEMBERS admin metrics; do
  cp authority/ca.pem "$name/ca.pem"
  chown -R keelson:keelson "$name"
  chmod 0750 "$name"
done
# Prometheus runs as a user of its own image, whatever its number.
chmod 0755 metrics
chmod 0644 metrics/metrics.key
