# CMake toolchain for scripts/bundle: 64-bit ARM Linux, Debian's cross compiler. RJPEG_ARM64_DEV is the folder that
# Debian's arm64 development packages were unpacked in; RJPEG_SOURCE the checkout.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_STRIP aarch64-linux-gnu-strip)

set(usr "$ENV{RJPEG_ARM64_DEV}/usr")
# jconfig.h and pyconfig.h are in the folder of the architecture; the paths of this machine stay out of the binary
set(CMAKE_CXX_FLAGS_INIT "-isystem ${usr}/include -isystem ${usr}/include/aarch64-linux-gnu -ffile-prefix-map=$ENV{RJPEG_SOURCE}=.")
# nothing but the C library is asked of the device
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-static-libstdc++ -static-libgcc")
set(JPEG_INCLUDE_DIR "${usr}/include" CACHE PATH "")
set(JPEG_LIBRARY "${usr}/lib/aarch64-linux-gnu/libjpeg.a" CACHE FILEPATH "")
set(Python_INCLUDE_DIR "${usr}/include/python$ENV{RJPEG_PYTHON}" CACHE PATH "")
set(PYTHON_MODULE_EXTENSION "$ENV{RJPEG_EXTENSION}" CACHE STRING "")
set(PYTHON_MODULE_DEBUG_POSTFIX "" CACHE STRING "")
