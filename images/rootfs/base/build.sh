#!/bin/sh
# Builds git and curl for the image base from Debian's sources: small, static, for musl, and with one TLS library between them.
#
# SRC has a directory for each package; the file system is made in OUT. CC is a compiler for the image's architecture, whose
# tools have the prefix CROSS and whose name is TRIPLET; JOBS is how many may run at once.
set -eu

# A C library of our own, wherever it was unpacked: its compiler specification names absolute paths.
lib=$(echo "$SRC"/musl-dev/usr/lib/*-linux-musl)
sed "s#/usr/#$SRC/musl-dev/usr/#g" "$lib/musl-gcc.specs" >"$SRC/specs"
printf '#!/bin/sh\nexec %s "$@" -specs %s\n' "$CC" "$SRC/specs" >"$SRC/cc"
chmod +x "$SRC/cc"

prefix=$SRC/prefix
mkdir -p "$prefix/lib" "$prefix/include" "$OUT/usr/bin" "$OUT/usr/lib/git-core" "$OUT/usr/share/git-core" "$OUT/etc/ssl/certs"
export CC="$SRC/cc" AR="${CROSS}ar" RANLIB="${CROSS}ranlib"
cflags="-Os -fstack-protector-strong -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables -ffile-prefix-map=$SRC=."
ldflags="-static -Wl,--gc-sections -Wl,--build-id=none"

echo "step zlib"
(
  cd "$SRC/zlib"
  CFLAGS=$cflags ./configure --static --prefix="$prefix"
  make -j "$JOBS" libz.a
  cp libz.a "$prefix/lib/"
  cp zlib.h zconf.h "$prefix/include/"
)

echo "step mbedtls"
make -C "$SRC/mbedtls" -j "$JOBS" lib CFLAGS="$cflags"
cp "$SRC"/mbedtls/library/*.a "$prefix/lib/"
cp -r "$SRC/mbedtls/include/mbedtls" "$SRC/mbedtls/include/psa" "$prefix/include/"

echo "step curl"
(
  cd "$SRC/curl"
  CFLAGS=$cflags CPPFLAGS="-I$prefix/include" LDFLAGS="$ldflags -L$prefix/lib" ./configure --host="$TRIPLET" --prefix="$prefix" \
    --disable-shared --enable-static --with-mbedtls="$prefix" --with-zlib="$prefix" --with-ca-bundle=/etc/ssl/certs/ca-certificates.crt \
    --without-brotli --without-zstd --without-libidn2 --without-libpsl --without-nghttp2 --without-librtmp --without-libssh2 \
    --disable-ldap --disable-ldaps --disable-rtsp --disable-dict --disable-telnet --disable-tftp --disable-pop3 --disable-imap \
    --disable-smb --disable-smtp --disable-gopher --disable-mqtt --disable-manual --disable-docs --disable-ntlm --disable-debug
  make -j "$JOBS" LDFLAGS="$ldflags -all-static -L$prefix/lib"
  make install
)
cp "$prefix/bin/curl" "$OUT/usr/bin/curl"

echo "step git"
cat >"$SRC/git/config.mak" <<END
CC = $CC
AR = $AR
CFLAGS = $cflags -I$prefix/include
LDFLAGS = $ldflags -L$prefix/lib
CURL_CFLAGS =
CURL_LDFLAGS = -lcurl -lmbedtls -lmbedx509 -lmbedcrypto -lz
prefix = /usr
gitexecdir = /usr/lib/git-core
sysconfdir = /etc
uname_S = Linux
NO_GETTEXT = 1
NO_PERL = 1
NO_PYTHON = 1
NO_TCLTK = 1
NO_OPENSSL = 1
NO_EXPAT = 1
NO_ICONV = 1
NO_REGEX = NeedsStartEnd
NO_RUST = 1
SKIP_DASHED_BUILT_INS = 1
SHELL_PATH = /bin/sh
END
scripts="git-difftool--helper git-merge-octopus git-merge-one-file git-merge-resolve git-mergetool git-request-pull git-submodule git-mergetool--lib git-sh-i18n git-sh-setup"
make -C "$SRC/git" -j "$JOBS" git git-remote-http git-sh-i18n--envsubst $scripts
make -C "$SRC/git/templates" SHELL_PATH=/bin/sh
(
  cd "$SRC/git"
  cp git "$OUT/usr/bin/git"
  cp git-remote-http git-sh-i18n--envsubst $scripts "$OUT/usr/lib/git-core/"
  cp -r mergetools "$OUT/usr/lib/git-core/mergetools"
  cp -r templates/blt "$OUT/usr/share/git-core/templates"
  rm -f "$OUT"/usr/share/git-core/templates/hooks/*
)
ln -s git-remote-http "$OUT/usr/lib/git-core/git-remote-https"
ln -s ../../bin/git "$OUT/usr/lib/git-core/git"
for name in git-receive-pack git-upload-archive git-upload-pack; do
  ln -s git "$OUT/usr/bin/$name"
done
"${CROSS}strip" "$OUT/usr/bin/git" "$OUT/usr/bin/curl" "$OUT/usr/lib/git-core/git-remote-http" "$OUT/usr/lib/git-core/git-sh-i18n--envsubst"

cat "$SRC"/ca-certificates/usr/share/ca-certificates/mozilla/*.crt >"$OUT/etc/ssl/certs/ca-certificates.crt"
