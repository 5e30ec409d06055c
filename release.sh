#!/usr/bin/env bash
# Makes what a release consists of, the same bytes each time: programs, Debian packages, units, licences and
# checksums.
#
#   ./release.sh [VERSION]                     all of it, in dist/; without VERSION the tag says it
#   ./release.sh -o FILE OS ARCH [VARIANT]     one program as a release has it, like -o /tmp/edge linux arm GOARM=6
#   ./release.sh -deb DIR VERSION DEBARCH      one package, like -deb /tmp 1.2.3 armhf
#
# It needs go, git and coreutils; go fetches the modules, nfpm among them, if they are not there yet. If VERSION and
# SOURCE_DATE_EPOCH (in seconds) are in the environment, git is not asked. Another Go makes other bytes: go version -m FILE says
# which one made a program.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022
from=$PWD
cd "$(dirname "$0")"

# Each program: its system and processor, and what else Go has to know of that.
targets=(
	'linux amd64'
	'linux arm64'
	'linux arm GOARM=7'
	'linux arm GOARM=6'
	'linux 386'
	'linux riscv64'
	'linux mipsle GOMIPS=softfloat'
	'darwin amd64'
	'darwin arm64'
	'windows amd64'
)
deb_archs=(amd64 arm64 armhf)

# Nothing counts that somebody has set for Go on this machine.
clean=(
	GOENV=off GOFLAGS= GOWORK=off GOEXPERIMENT= GOFIPS140= CGO_ENABLED=0
	GOAMD64= GOARM= GOARM64= GO386= GOMIPS= GORISCV64=
)

# die TEXT... says why there is nothing to be had.
die() {
	printf 'release.sh: %s\n' "$*" >&2
	exit 1
}

# use_version [VERSION] sets version, without the v of a tag, and epoch and built, the time of the commit.
use_version() {
	version=${1:-${VERSION:-$(git describe --tags --dirty 2>/dev/null || echo 0.0.0-dev)}}
	version=${version#v}
	[[ $version =~ ^[0-9][0-9A-Za-z.+~-]*$ ]] || die "a version is like 1.2.3 or 1.2.3-rc1, not $version"
	epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --no-show-signature --format=%ct 2>/dev/null || true)}
	[[ $epoch =~ ^[0-9]+$ ]] || die 'git does not know the time of the commit: set SOURCE_DATE_EPOCH, in seconds'
	built=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
}

# build FILE OS ARCH [VARIANT] makes a program. Nothing that git knows goes in: version and time are ours.
build() {
	env "${clean[@]}" GOOS="$2" GOARCH="$3" ${4:+"$4"} go build -o "$1" -trimpath -buildvcs=false \
		-ldflags="-s -w -X main.version=$version -X main.built=$built" .
}

# program_name OS ARCH [VARIANT] prints what a program is called: edge-1.2.3-linux-armv6.
program_name() {
	local arch=$2 end=
	[[ ${3-} != GOARM=* ]] || arch+=v${3#GOARM=}
	[[ $1 != windows ]] || end=.exe
	printf 'edge-%s-%s-%s%s\n' "$version" "$1" "$arch" "$end"
}

# list FILE... prints the files with their sizes.
list() {
	local file
	for file; do
		printf '%-36s %10d bytes\n' "${file##*/}" "$(stat -c %s "$file")"
	done
}

# --- Debian packages ---

# edge_here ARGUMENT... runs an edge for this machine, and nothing in the environment has a say in it.
edge_here() {
	[[ -x $tmp/edge ]] || build "$tmp/edge" "$(go env GOHOSTOS)" "$(go env GOHOSTARCH)"
	env -i "$tmp/edge" "$@"
}

# deb_version prints the version as dpkg sorts it: 1.2.3~rc1 is before 1.2.3.
deb_version() {
	sed -E 's/^([0-9.]+)-((alpha|beta|dev|pre|rc).*)$/\1~\2/' <<<"$version"
}

# configuration prints what becomes /etc/edge/edge.json: the example, in which id and key count, so that the key stays the same.
configuration() {
	local text pair name off
	text=$(edge_here config -example)
	for pair in id=1 key=app-key; do
		name=${pair%%=*} off=$'\n  // "'${pair%%=*}$'": "",\n'
		[[ $text == *"$off"* ]] || die "edge config -example has no line for \"$name\""
		text=${text/"$off"/$'\n  "'$name'": "'${pair#*=}$'",\n'}
	done
	cat package/edge.json.head
	printf '%s\n' "$text"
}

# copyright prints what becomes /usr/share/doc/edge/copyright. The licences of what is in the program ask to be shown:
# TestReleaseLicences knows when one is missing.
copyright() {
	cat LICENSE
	printf '\nGo'\''s standard library, runtime and golang.org/x/sys, which are part of the program:\n\n'
	cat package/LICENSE.golang
	printf '\ngws, which reads and writes WebSocket:\n\n'
	cat package/LICENSE.gws
	printf '\ncompress, of which gws uses flate:\n\n'
	cat package/LICENSE.compress
	printf '\nfastjson, which reads JSON of clients and API callers:\n\n'
	cat package/LICENSE.fastjson
	printf '\nhujson, which reads the configuration:\n\n'
	cat package/LICENSE.hujson
	printf '\ngo-systemd, which notifies systemd and reads its sockets:\n\n'
	cat package/LICENSE.go-systemd
	printf '\nautomemlimit, which reads the limits of control groups:\n\n'
	cat package/LICENSE.automemlimit
	printf '\nmemory, which automemlimit asks for the memory of the machine:\n\n'
	cat package/LICENSE.memory
}

# deb DIR DEBARCH makes DIR/edge_VERSION_DEBARCH.deb of what package/nfpm.yaml names.
deb() {
	local root=$tmp/$2 target nfpm
	case $2 in
	amd64 | arm64) target=("$2") ;;
	armhf) target=(arm GOARM=6) ;; # Raspberry Pi OS has that name for boards with ARMv6 too
	*) die "there is no package for $2, only for ${deb_archs[*]}" ;;
	esac
	mkdir "$root"
	build "$root/edge" linux "${target[@]}"
	configuration >"$root/edge.json"
	edge_here config -check -config "$root/edge.json" >/dev/null
	copyright >"$root/copyright"
	cp package/{nfpm.yaml,edge.service,edge.socket,postinst,prerm,postrm} "$root"

	nfpm=$(env "${clean[@]}" go -C package/nfpm tool -n nfpm)
	(cd "$root" && env SOURCE_DATE_EPOCH="$epoch" DEB_ARCH="$2" DEB_VERSION="$(deb_version)" \
		"$nfpm" package -f nfpm.yaml -p deb -t "$1/edge_${version}_$2.deb" >/dev/null)
}

# release makes everything anew: SHA256SUMS is to have nothing of an earlier release.
release() {
	local target arch sums
	rm -rf dist
	mkdir dist
	for target in "${targets[@]}"; do
		read -ra target <<<"$target"
		build "dist/$(program_name "${target[@]}")" "${target[@]}"
	done
	for arch in "${deb_archs[@]}"; do
		deb "$PWD/dist" "$arch"
	done
	cp package/edge.{service,socket} dist
	copyright >dist/COPYRIGHT
	sums=$(cd dist && sha256sum -- *)
	printf '%s\n' "$sums" >dist/SHA256SUMS
	list dist/*
}

# here FILE prints the name that a file has from here, which the caller gave from where they are.
here() {
	case $1 in
	/*) printf '%s\n' "$1" ;;
	*) printf '%s\n' "$from/$1" ;;
	esac
}

usage='it is ./release.sh [VERSION], -o FILE OS ARCH [VARIANT] or -deb DIR VERSION DEBARCH'
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
case ${1-} in
-o)
	(($# == 4 || $# == 5)) || die "$usage"
	use_version
	file=$(here "$2")
	build "$file" "${@:3}"
	list "$file"
	;;
-deb)
	(($# == 4)) || die "$usage"
	use_version "$3"
	dir=$(here "$2")
	deb "$dir" "$4"
	list "$dir/edge_${version}_$4.deb"
	;;
*)
	[[ $# -le 1 && ${1-} != -* ]] || die "$usage"
	use_version "${1-}"
	release
	;;
esac
