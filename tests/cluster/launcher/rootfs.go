package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// bare are the top-level directories that a container does not share with the host.
var bare = map[string]bool{"proc": true, "sys": true, "dev": true, "tmp": true, "run": true, "lost+found": true}

var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// rootfs assembles the container's root: the host's directories under overlays, so that what a container writes
// is its own and mount points can appear anywhere, then what the image and the volumes add.
type rootfs struct {
	spec *Spec
	// ours are the mounts that make up the image, in the order they were made: read-only at the end, if asked.
	ours []string
	// covered are mount points of volumes: what is below one of them cannot be reached any more.
	covered map[string]bool
}

func (r *rootfs) assemble() error {
	// Without this the host would see every mount made here.
	if err := mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	steps := []func() error{r.base, r.system, r.hide, r.binds, r.freeze, r.pivot}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *rootfs) at(path string) string { return filepath.Join(r.spec.Root, path) }

// base overlays each top-level directory. One overlay of "/" would do for root, but in a user namespace the kernel
// refuses a lower directory that has other mounts below it.
func (r *rootfs) base() error {
	if err := r.tmpfs("/", "mode=0755"); err != nil {
		return err
	}
	for _, layers := range []string{".upper", ".work"} {
		if err := os.Mkdir(r.at(layers), 0o700); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch {
		case bare[entry.Name()]:
		case entry.Type()&os.ModeSymlink != 0:
			target, _ := os.Readlink("/" + entry.Name())
			err = os.Symlink(target, r.at(entry.Name()))
		case entry.IsDir():
			err = r.overlay(entry.Name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rootfs) overlay(name string) error {
	info, err := os.Stat("/" + name)
	if err != nil {
		return err
	}
	upper, work := r.at(".upper/"+name), r.at(".work/"+name)
	for _, dir := range []string{upper, work, r.at(name)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := errors.Join(
		ignorePermission(os.Chown(upper, int(owner.Uid), int(owner.Gid))), os.Chmod(upper, info.Mode()),
	); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", name, upper, work)
	if !inInitialUserNamespace() {
		options += ",userxattr"
	}
	if mount("overlay", r.at(name), "overlay", 0, options) != nil {
		// A directory that cannot be a lower one is shown as it is; one that cannot be shown stays empty.
		if bind("/"+name, r.at(name), false) != nil {
			return nil
		}
	}
	r.ours = append(r.ours, r.at(name))
	return nil
}

func (r *rootfs) system() error {
	for _, err := range []error{
		r.mkdirMount("proc", func(at string) error { return mount("proc", at, "proc", 0, "") }),
		r.mkdirMount("sys", bindSys),
		r.tmpfs("dev", "mode=0755"),
		r.tmpfs("tmp", "mode=1777"),
		r.tmpfs("run", "mode=0755"),
		r.devices(),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rootfs) devices() error {
	names := devices
	accelerators, _ := filepath.Glob("/dev/nvidia*")
	for _, path := range accelerators {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			names = append(names, filepath.Base(path))
		}
	}
	for _, name := range names {
		if err := bindOver("/dev/"+name, r.at("dev/"+name), false); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink("/proc/self/"+target, r.at("dev/"+name)); err != nil {
			return err
		}
	}
	return r.mkdirMount("dev/shm", func(at string) error { return mount("tmpfs", at, "tmpfs", 0, "mode=1777") })
}

func (r *rootfs) hide() error {
	for _, path := range r.spec.Hidden {
		if err := r.tmpfs(path, "mode=0755"); err != nil {
			return err
		}
	}
	return nil
}

func (r *rootfs) binds() error {
	for _, b := range r.spec.Binds {
		target, err := r.resolve(b.Target)
		if err == nil {
			r.covered[target] = true
			err = bindOver(b.Source, target, b.ReadOnly)
		}
		if err != nil {
			return fmt.Errorf("mount %s at %s: %w", b.Source, b.Target, err)
		}
	}
	return nil
}

// resolve follows the container's own symbolic links (/var/run is one) without ever leaving its root.
func (r *rootfs) resolve(path string) (string, error) {
	done, todo := "/", strings.Split(filepath.Clean("/"+path), "/")
	for hops := 0; len(todo) > 0; {
		next := filepath.Join(done, todo[0])
		todo = todo[1:]
		link, err := os.Readlink(r.at(next))
		if err != nil {
			done = next
			continue
		}
		if hops++; hops > 40 {
			return "", syscall.ELOOP
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(done, link)
		}
		done, todo = "/", append(strings.Split(filepath.Clean(link), "/"), todo...)
	}
	return r.at(done), nil
}

// freeze makes the image read-only and leaves volumes, /proc and /dev/shm as they are.
func (r *rootfs) freeze() error {
	if !r.spec.ReadOnlyRoot {
		return nil
	}
	for _, path := range r.ours {
		if r.isCovered(path) { // a remount would hit the volume
			continue
		}
		if err := remountReadOnly(path); err != nil {
			return fmt.Errorf("read-only %s: %w", path, err)
		}
	}
	return nil
}

func (r *rootfs) isCovered(path string) bool {
	for volume := range r.covered {
		if path == volume || strings.HasPrefix(path, volume+"/") {
			return true
		}
	}
	return false
}

func (r *rootfs) pivot() error {
	if err := os.Chdir(r.spec.Root); err != nil {
		return err
	}
	// The old root is stacked under the new one, then dropped: no directory has to exist for it.
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return err
	}
	return os.Chdir("/")
}

func (r *rootfs) tmpfs(path, options string) error {
	at := r.at(path)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", at, "tmpfs", syscall.MS_NOSUID, options); err != nil {
		return err
	}
	r.ours = append(r.ours, at)
	return nil
}

func (r *rootfs) mkdirMount(path string, do func(at string) error) error {
	if err := os.MkdirAll(r.at(path), 0o755); err != nil {
		return err
	}
	return do(r.at(path))
}
