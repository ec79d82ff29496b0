#!/bin/sh
# Makes the cluster's authority and one identity per member, for the administrator and for Prometheus,
# unless they are there. Each goes into a volume of its own; the authority's key stays in a volume that no member mounts.
#
# With RENEW="m1 admin" in the environment it replaces the certificates of these, each by one of the same
# purpose, which members take up by themselves; EXPIRES (as 720h) says how long the new ones last.
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

# One certificate by its name, with the purpose that the name has here: a member's opens everything, so
# nobody else may get one by mistake.
certify() {
  name=$1 how=$2
  case " $MEMBERS " in
    # By the name localhost browsers on the host reach its console.
    *" $name "*) "$how" member "$name" --host "$name" --host localhost ;;
    *) case $name in
      admin) "$how" admin admin ;;
      metrics) "$how" monitor metrics ;;
      *)
        echo "RENEW: $name is none of $MEMBERS admin metrics" >&2
        exit 1
        ;;
    esac ;;
  esac
}

renew() {
  purpose=$1 name=$2
  shift 2
  rm -rf authority/fresh
  keelson certs issue "$purpose" "$name" "$@" --ca-dir authority --dir authority/fresh \
    --expires "${EXPIRES:-8760h}"
  chown keelson:keelson authority/fresh/*
  mv authority/fresh/"$name".key authority/fresh/"$name".pem "$name"/
}

for name in ${RENEW:-}; do
  certify "$name" renew
done

for name in $MEMBERS admin metrics; do
  certify "$name" issue
done

for name in $MEMBERS admin metrics; do
  cp authority/ca.pem "$name/ca.pem"
  chown -R keelson:keelson "$name"
  chmod 0750 "$name"
done
# Prometheus runs as a user of its own image, whatever its number.
chmod 0755 metrics
chmod 0644 metrics/metrics.key
