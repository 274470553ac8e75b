# On the PATH, where `source aimet_env_setup.sh --env_path DIR --aimet_sdk_tar TAR` finds it: npukit-aimet has the script itself.
_npukit_qairt_script="$(npukit aimet script)" || {
    echo "aimet_env_setup.sh: npukit-aimet is not installed: pip install npukit-aimet" >&2
    return 2 2>/dev/null || exit 2
}
. "$_npukit_qairt_script" "$@"
