#!/bin/sh
# Installs configuration files, but never over what is there: the operator's file stays, and a newer one is put beside
# it as FILE.new. Run by `meson install`, with the files' names.
set -eu
put() { # from, to
  if [ ! -e "$2" ]; then
    install -m 644 "$1" "$2"
  elif ! cmp -s "$1" "$2"; then
    install -m 644 "$1" "$2.new"
  fi
}
root=$MESON_INSTALL_DESTDIR_PREFIX
mkdir -p "$root/conf" "$root/synctool/conf"
for file; do
  name=${file##*/}
  put "$file" "$root/conf/$name"
done
# bin/start.sh puts the operator's over it.
copy=$root/synctool/conf/synctool.properties
[ -e "$copy" ] || install -m 644 "$root/conf/synctool.properties" "$copy"
