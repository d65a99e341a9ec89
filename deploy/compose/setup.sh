#!/bin/sh
# Makes the files in secrets/ that compose.yaml mounts, where they are not there yet: a certificate for App Mesh with a CA
# of its own, and two passwords. Needs openssl. Run it again after removing a file, to have that one made anew.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets

if ! [ -e ca.pem ] || ! [ -e appmesh.pem ] || ! [ -e appmesh-key.pem ]; then
    rm -f ca.pem appmesh.pem appmesh-key.pem
    # The CA's key signs this one certificate and is thrown away.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=meshbridge compose CA" \
        -addext "keyUsage=critical,keyCertSign" -keyout ca-key.tmp -out ca.pem 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=appmesh" \
        -keyout appmesh-key.pem -out appmesh.tmp 2>/dev/null
    printf 'subjectAltName=DNS:appmesh,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >extensions.tmp
    openssl x509 -req -in appmesh.tmp -CA ca.pem -CAkey ca-key.tmp -CAcreateserial -CAserial serial.tmp -days 3650 \
        -extfile extensions.tmp -out appmesh.pem 2>/dev/null
    rm -f ./*.tmp
fi
# App Mesh's own first password of `admin`; the daemon can be reached in the network `mesh` alone.
[ -e appmesh-password ] || printf 'admin123' >appmesh-password
[ -e grafana-password ] || openssl rand -hex 16 | tr -d '\n' >grafana-password

# A container's user is not yours, and sees the file alone: the file has to be readable by all, the folder is yours.
chmod 0444 ./*
chmod 0700 .
echo "secrets/ is complete; Grafana's user is admin, its password: cat secrets/grafana-password"
