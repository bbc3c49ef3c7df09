package main

// Spec says everything about one container; the node writes it, one file per start.
type Spec struct {
	Args       []string `json:"args"`
	Env        []string `json:"env"`
	WorkingDir string   `json:"workingDir"`
	Log        string   `json:"log"`    // host path that gets standard output and error
	Root       string   `json:"root"`   // empty host directory: the root file system is assembled over it
	Parent     int      `json:"parent"` // process id of the node

	Hidden []string `json:"hidden"` // directories replaced by an empty one that everybody may enter
	Binds  []Bind   `json:"binds"`  // in this order: what the image needs of the host, then the volumes

	ReadOnlyRoot    bool     `json:"readOnlyRoot"`
	UID             int      `json:"uid"`
	GID             int      `json:"gid"`
	Groups          []int    `json:"groups"`
	Capabilities    []string `json:"capabilities"` // all that the container may ever have
	NoNewPrivileges bool     `json:"noNewPrivileges"`

	path string
}

// Bind makes a file or directory of the host visible in the container.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly"`
}
