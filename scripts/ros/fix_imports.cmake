# Needed only with the ROS 2 wheels from PyPI, never on a ROS installation; scripts/ros/build.sh passes it as
# -DCMAKE_PROJECT_INCLUDE. It runs when the whole CMakeLists.txt has been read and repairs two things:
#
# 1. The CMake exports in the wheels carry an include folder of the machine that built them (/opt/python/...).
#    It does not exist here, and CMake refuses imported targets with such folders.
# 2. NumPy's headers belong to a generated library that gets exported. They are in .venv, inside the source
#    folder, and CMake refuses to export a path in there. Whoever uses the library finds NumPy by itself.
function(_xsam_fix_imports)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS imported)
    get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(includes MATCHES "/opt/python/")
      list(FILTER includes EXCLUDE REGEX "^/opt/python/")
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${includes}")
    endif()
  endforeach()

  get_property(built DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS built)
    get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(includes MATCHES "/site-packages/numpy/")
      list(FILTER includes EXCLUDE REGEX "^[^;]*/site-packages/numpy/")
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${includes}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL _xsam_fix_imports)
