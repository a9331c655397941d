# Source this: `. ./env.sh` gives a shell in which nodes, `scaleevent` and tests run.
# It only puts the environment in front of what is there; sourcing it twice changes nothing.

if [ -n "${BASH_SOURCE:-}" ]; then
    _scaleevent_root=$(cd "$(dirname "${BASH_SOURCE}")" && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
    _scaleevent_root=$(cd "$(dirname "$(eval 'printf %s "${(%):-%x}"')")" && pwd)
else
    _scaleevent_root=$(pwd) # a plain POSIX shell does not tell where a sourced file lies
fi

if [ ! -f "$_scaleevent_root/.venv/setup-state.json" ]; then
    echo "env.sh: no environment in $_scaleevent_root/.venv: run \`make setup\` first" >&2
    unset _scaleevent_root
    return 1
fi

_scaleevent_prepend() { # VARIABLE VALUE: put VALUE in front, unless it is in the list already
    eval "_scaleevent_list=\${$1:-}"
    case ":$_scaleevent_list:" in
        *":$2:"*) ;;
        *) export "$1=$2${_scaleevent_list:+:$_scaleevent_list}" ;;
    esac
    unset _scaleevent_list
}

_scaleevent_prepend PATH "$_scaleevent_root/.venv/bin"
_scaleevent_prepend AMENT_PREFIX_PATH "$_scaleevent_root/.venv"
if [ -n "${ROS_DISTRO:-}" ]; then
    # `ros2 launch` runs launch files in the system's Python, which sees nothing of .venv.
    _scaleevent_prepend PYTHONPATH "$_scaleevent_root/.venv/share/scaleevent_ros/python"
fi

# Fast DDS as it comes loses large best-effort messages; a profile of your own is kept.
if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTRTPS_DEFAULT_PROFILES_FILE:-}" ]; then
    export FASTDDS_DEFAULT_PROFILES_FILE="$_scaleevent_root/config/fastdds_large_messages.xml"
    case "${ROS_DISTRO:-}" in
        # Fast DDS 2 knows the variable by its old name only, Fast DDS 3 warns of that name.
        humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="$FASTDDS_DEFAULT_PROFILES_FILE" ;;
    esac
fi

unset -f _scaleevent_prepend
unset _scaleevent_root
