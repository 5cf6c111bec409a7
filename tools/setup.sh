# shellcheck shell=bash
# Shared by ./demo and ./test, which source it: stages with their times, missing Debian packages, configuring and
# building with the time left. Needs bash; expects `set -euo pipefail` and the repository as working directory.

# What CMakeLists.txt and tests/ look for, by the names of Debian 12.
packages=(g++ cmake ninja-build pkg-config nlohmann-json3-dev libsimdjson-dev libcli11-dev libfmt-dev libspdlog-dev
  libeigen3-dev libboost1.81-dev libpcre2-dev libicu-dev libssl-dev libcurl4-openssl-dev libgtest-dev libgmock-dev python3 python3-pip
  python3-numpy python3-dev python3-venv)
jobs=$(nproc)
stage=''
stage_start=0

duration() { (($1 < 60)) && printf '%d s' "$1" || printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); }

end_stage() {
  [[ -z $stage ]] || printf -- '-- %s: %s\n' "$stage" "$(duration $((SECONDS - stage_start)))"
  stage=''
}

begin_stage() {
  end_stage
  stage=$1 stage_start=$SECONDS
  printf '\n== %s\n' "$stage"
}

report_exit() {
  local status=$?
  ((status == 0)) || printf '\nstopped%s (exit %d)\n' "${stage:+ during: $stage}" "$status" >&2
}
trap report_exit EXIT

# install_packages: installs what is missing, and asks for nothing when nothing is.
install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian: taking the compiler and libraries that are here (${packages[*]})."
    return
  fi
  local package missing=() root=()
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    echo "nothing to install"
    return
  fi
  local install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if ((EUID != 0)); then
    root=(sudo)
    if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; }; }; then
      trap - EXIT
      echo "Packages are missing; as root, run:  $install" >&2
      exit 1
    fi
  fi
  echo "installing: ${missing[*]}"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive bash -c "$install"
}

# Reads the output of ninja (status "@done/total@") or ctest and shows the count, the rate and the time left, on a
# terminal in place and elsewhere every 10 seconds. Everything else passes through, failures included.
show_progress() {
  local what=$1 line start=$SECONDS shown=$SECONDS count total elapsed text width=0
  [[ -t 1 ]] && width=$(tput cols 2>/dev/null || echo 80)
  while IFS= read -r line; do
    if [[ $line =~ ^@([0-9]+)/([0-9]+)@ || $line =~ ^\ *([0-9]+)/([0-9]+)\ Test ]]; then
      count=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]} elapsed=$((SECONDS - start))
      text="$what $count/$total  $((100 * count / total)) %"
      if ((elapsed > 0 && count > 0)); then
        text+="  $((count / elapsed)).$((10 * count / elapsed % 10))/s"
        text+="  $(duration $(((total - count) * elapsed / count))) left"
      fi
      if ((width > 0)); then
        printf '\r\033[K%s' "${text:0:width-1}"
      elif ((SECONDS - shown >= 10)); then
        shown=$SECONDS
        echo "$text"
      fi
      [[ $line != *'***'* ]] || printf '%s%s\n' "$( ((width > 0)) && printf '\r\033[K')" "$line"
    elif ! [[ $line =~ ^\ *Start\ +[0-9]+: ]]; then
      printf '%s%s\n' "$( ((width > 0)) && printf '\r\033[K')" "$line"
    fi
  done
  ((width == 0)) || printf '\r\033[K'
}

# build PRESET DIRECTORY [TARGET...]: configures and builds; a build that is up to date takes a second.
build() {
  local preset=$1 directory=$2
  shift 2
  mkdir -p "$directory"
  if ! cmake --preset "$preset" >"$directory/configure.log" 2>&1; then
    cat "$directory/configure.log" >&2
    return 1
  fi
  NINJA_STATUS='@%f/%t@ ' ninja -C "$directory" -j "$jobs" "$@" 2>&1 | show_progress "compiled" | sed '/^ninja: \(Entering\|no work\)/d'
}
