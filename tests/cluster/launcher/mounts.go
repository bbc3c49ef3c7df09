package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

func bind(source, target string, readOnly bool) error {
	if err := mount(source, target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return err
	}
	if readOnly {
		return remountReadOnly(target)
	}
	return nil
}

// bindSys shows the host's /sys without what is mounted below it (control groups), where the kernel allows that.
func bindSys(at string) error {
	if syscall.Mount("/sys", at, "", syscall.MS_BIND, "") == nil {
		return remountReadOnly(at)
	}
	return bind("/sys", at, true)
}

// bindOver binds source and makes the mount point, a file or a directory as the source is, where there is none.
func bindOver(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
		if err := makeMountPoint(target, info.IsDir()); err != nil {
			return err
		}
	}
	return bind(source, target, readOnly)
}

func makeMountPoint(target string, directory bool) error {
	if directory {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, nil, 0o644)
}

// remountReadOnly keeps the mount's other flags: in a user namespace the kernel refuses to drop any of them.
func remountReadOnly(target string) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(target, &stat); err != nil {
		return err
	}
	const kept = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC | syscall.MS_NOATIME
	flags := uintptr(stat.Flags)&kept | syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY
	return mount("", target, "", flags, "")
}

// inInitialUserNamespace tells real root from the root of an unprivileged user namespace.
func inInitialUserNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(data)), " ") == "0 0 4294967295"
}

func ignorePermission(err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
