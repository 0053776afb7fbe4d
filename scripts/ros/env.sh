# Environment for the ROS 2 wheels of the project's virtual environment. Source it from bash or zsh:
#
#     . .venv/bin/activate && scripts/ros/build.sh && . scripts/ros/env.sh
#
# On a machine with a ROS installation source that and install/setup.bash instead, never both.
if [ -n "${ROS_DISTRO:-}" ] && [ -d "/opt/ros/${ROS_DISTRO}" ]; then
  echo "env.sh: a ROS installation (${ROS_DISTRO}) is already sourced; not mixing it with the wheels" >&2
  return 1 2> /dev/null || exit 1
fi

_xsam_root=$(cd "$(dirname "${BASH_SOURCE:-$0}")/../.." && pwd)
_xsam_venv=${VIRTUAL_ENV:-$_xsam_root/.venv}
_xsam_install=$_xsam_root/install/xsam_ros

_xsam_prepend() { # variable, folder: put the folder first unless it is in there already
  eval "_xsam_old=\${$1:-}"
  case ":$_xsam_old:" in
    *":$2:"*) ;;
    *) export "$1=$2${_xsam_old:+:$_xsam_old}" ;;
  esac
}

_xsam_prepend AMENT_PREFIX_PATH "$_xsam_venv"
_xsam_prepend AMENT_PREFIX_PATH "$_xsam_install"
_xsam_prepend LD_LIBRARY_PATH "$_xsam_install/lib"
# The source folder comes first: Python code is taken from there, the generated interfaces from install/.
for _xsam_site in "$_xsam_install"/lib/python3*/site-packages; do
  _xsam_prepend PYTHONPATH "$_xsam_site"
done
_xsam_prepend PYTHONPATH "$_xsam_root"

# Without the profile most best-effort images are lost (see the comments in the file), and nothing of
# this machine's experiments should reach other robots.
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$_xsam_root/config/fastdds_large_images.xml}
export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
unset ROS_LOCALHOST_ONLY

[ -d "$_xsam_install" ] || echo "env.sh: install/ is missing: run scripts/ros/build.sh first" >&2
unset -f _xsam_prepend
unset _xsam_root _xsam_venv _xsam_install _xsam_site _xsam_old
