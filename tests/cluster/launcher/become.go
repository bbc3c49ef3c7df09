package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// become is the second stage: it returns only when the command could not be started.
func become(spec *Spec) error {
	syscall.CloseOnExec(errorFD)
	// A new session came with the namespace; the parent-death signal is set again after each change of identity.
	if err := (&rootfs{spec: spec, covered: map[string]bool{}}).assemble(); err != nil {
		return err
	}
	if err := enterWorkingDir(spec); err != nil {
		return err
	}
	if inInitialUserNamespace() {
		if err := dropPrivileges(spec); err != nil {
			return err
		}
	}
	if spec.NoNewPrivileges {
		if err := prctl(prSetNoNewPrivs, 1); err != nil {
			return err
		}
	}
	dieWithParent()
	path, err := lookPath(spec)
	if err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, spec.Args, spec.Env))
}

// enterWorkingDir creates the directory when it is missing, as container runtimes do.
func enterWorkingDir(spec *Spec) error {
	if spec.WorkingDir == "" {
		return nil
	}
	if err := os.Chdir(spec.WorkingDir); err == nil {
		return nil
	}
	if err := os.MkdirAll(spec.WorkingDir, 0o755); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	return os.Chdir(spec.WorkingDir)
}

// lookPath searches the container's PATH, not the launcher's.
func lookPath(spec *Spec) (string, error) {
	name := spec.Args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, entry := range spec.Env {
		value, isPath := strings.CutPrefix(entry, "PATH=")
		for _, dir := range filepath.SplitList(value) {
			candidate := filepath.Join(dir, name)
			if info, err := os.Stat(candidate); isPath && err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
				return candidate, nil
			}
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}

func dropPrivileges(spec *Spec) error {
	if err := limitCapabilities(spec.Capabilities); err != nil {
		return err
	}
	if err := syscall.Setgroups(spec.Groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setgid(spec.GID); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := syscall.Setuid(spec.UID); err != nil {
		return fmt.Errorf("setuid: %w", err)
	}
	return nil
}

const (
	prSetPdeathsig  = 1
	prCapBsetDrop   = 24
	prSetNoNewPrivs = 38
)

func prctl(option, value uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, value, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("prctl %d: %w", option, errno)
	}
	return nil
}

func dieWithParent() { _ = prctl(prSetPdeathsig, uintptr(syscall.SIGKILL)) }

// limitCapabilities empties the bounding set but for the kept ones. What a process of uid 0 gets by exec is
// the bounding set; any other uid gets nothing, so the other sets need no care.
func limitCapabilities(kept []string) error {
	keep := map[string]bool{}
	for _, name := range kept {
		keep[strings.TrimPrefix(strings.ToUpper(name), "CAP_")] = true
	}
	for number, name := range capabilityNames {
		if keep[name] || keep["ALL"] {
			continue
		}
		if err := prctl(prCapBsetDrop, uintptr(number)); err != nil {
			return err
		}
	}
	return clearInheritable()
}

// clearInheritable: the inheritable set would survive exec.
func clearInheritable() error {
	header := struct {
		version uint32
		pid     int32
	}{0x20080522, 0}
	var sets [2]struct{ effective, permitted, inheritable uint32 }
	if _, _, errno := syscall.RawSyscall(
		syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0); errno != 0 {
		return fmt.Errorf("capget: %w", errno)
	}
	sets[0].inheritable, sets[1].inheritable = 0, 0
	if _, _, errno := syscall.RawSyscall(
		syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0); errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}

// capabilityNames by number, as in linux/capability.h.
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}
