"""The lab: throwaway guests with real device-mapper kernels, where tests run as root."""
