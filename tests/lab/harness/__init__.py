"""The lab: throwaway guests with real device-mapper kernels, in which dmsnap's tests run as root."""
