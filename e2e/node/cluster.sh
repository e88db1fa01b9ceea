#!/usr/bin/env bash
# One real Kubernetes node in private mount, network, pid, ipc and uts namespaces: etcd, the control plane, containerd,
# kubelet, kube-proxy in nftables mode and CoreDNS. Root is required. Killing the first process of the namespaces
# removes all of it; `down` removes the rest (a cgroup, a veth, a folder).
#
#   ELAVA_TOOLS=FOLDER STATE=FOLDER node/cluster.sh up            runs until it is killed; STATE/up marks it as ready
#                                                   down          removes what a killed `up` may have left
#                                                   exec CMD...   runs a command in the node's namespaces
#                                                   ctr ARGS      runs ctr on the containerd with the kubelet's images
#                                                   kill NAME     sends SIGKILL to one component
#                                                   start NAME    starts it again
#
# Pods reach this machine at 10.87.0.1; the API server is https://10.87.0.2:6443, and the addresses of pods and
# Services are reachable from this machine.
set -u
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
T=${ELAVA_TOOLS:?the folder that e2e/tools/install.sh printed} S=${STATE:?a folder for the node}
# Only one node per machine: these names and addresses are global to the machine.
CG=elava-node IFH=elava-n0 NODE=node
HIP=10.87.0.1 IP=10.87.0.2 PODNET=10.88.0 SVCNET=10.96
export PATH=$T:$T/debian/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
P=$S/pki L=$S/logs
say() { printf 'node: %s\n' "$*"; }
die() { echo "node: $*" >&2; exit 1; }
initpid() { cat "$S/init.pid" 2>/dev/null; }
alive() { local p; p=$(initpid) && [ -n "$p" ] && [ "$(readlink "/proc/$p/ns/pid" 2>/dev/null)" = "$(cat "$S/pidns" 2>/dev/null)" ]; }
inns() { nsenter -t "$(initpid)" -m -n -p -i -u -- "$@"; }

# ---- command lines of the components (used inside the namespaces) ----
cmd_etcd() { exec etcd --name n --data-dir $S/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster n=http://127.0.0.1:2380 --unsafe-no-fsync; }
cmd_apiserver() { exec kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=$IP --advertise-address=$IP --secure-port=6443 \
  --tls-cert-file=$P/apiserver.crt --tls-private-key-file=$P/apiserver.key --client-ca-file=$P/ca.crt \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-signing-key-file=$P/sa.key --service-account-key-file=$P/sa.pub \
  --service-cluster-ip-range=$SVCNET.0.0/16 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --kubelet-client-certificate=$P/kubelet-client.crt --kubelet-client-key=$P/kubelet-client.key --kubelet-certificate-authority=$P/ca.crt --kubelet-preferred-address-types=InternalIP \
  --enable-aggregator-routing=true --requestheader-client-ca-file=$P/front-ca.crt --requestheader-allowed-names=front-proxy-client \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file=$P/front-proxy-client.crt --proxy-client-key-file=$P/front-proxy-client.key; }
cmd_kcm() { exec kube-controller-manager --kubeconfig=$P/kcm.kubeconfig --authentication-kubeconfig=$P/kcm.kubeconfig --authorization-kubeconfig=$P/kcm.kubeconfig \
  --bind-address=127.0.0.1 --leader-elect=false --kube-api-qps=300 --kube-api-burst=600 --use-service-account-credentials --service-account-private-key-file=$P/sa.key --root-ca-file=$P/ca.crt \
  --cluster-signing-cert-file=$P/ca.crt --cluster-signing-key-file=$P/ca.key --client-ca-file=$P/ca.crt; }
cmd_scheduler() { exec kube-scheduler --kubeconfig=$P/scheduler.kubeconfig --authentication-kubeconfig=$P/scheduler.kubeconfig \
  --authorization-kubeconfig=$P/scheduler.kubeconfig --bind-address=127.0.0.1 --leader-elect=false; }
cmd_containerd() { exec containerd --config $S/containerd.toml; }
cmd_kubelet() { exec kubelet --config=$S/kubelet.yaml --kubeconfig=$P/kubelet.kubeconfig --hostname-override=$NODE --node-ip=$IP; }
cmd_proxy() { export LD_LIBRARY_PATH=$T/debian/usr/lib/x86_64-linux-gnu; exec kube-proxy --config=$S/proxy.yaml --hostname-override=$NODE; }
cmd_dns() { exec coredns -conf $S/Corefile; }

configs() {
  cat > $S/containerd.toml <<C
version = 3
root = "$S/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile"]
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["$T"]
    conf_dir = "$S/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "$(command -v runc)"
      SystemdCgroup = false
C
  mkdir -p $S/cni; cat > $S/cni/10-bridge.conflist <<C
{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,"ipMasq":false,
 "ipam":{"type":"host-local","ranges":[[{"subnet":"$PODNET.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}],"dataDir":"/var/lib/cni/ipam"}}]}
C
  cat > $S/kubelet.yaml <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /$CG
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: $IP
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $P/kubelet.crt
tlsPrivateKeyFile: $P/kubelet.key
clusterDNS: [$PODNET.1]
clusterDomain: cluster.local
resolvConf: $S/resolv.conf
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
podLogsDir: $L/pods
volumePluginDir: $S/volumeplugins
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
C
  : > $S/resolv.conf
  cat > $S/proxy.yaml <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $P/proxy.kubeconfig}
bindAddress: $IP
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clusterCIDR: $PODNET.0/24
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 100ms}
C
  cat > $S/Corefile <<C
.:53 {
  bind $PODNET.1
  errors
  ready 127.0.0.1:8181
  cache 5
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $P/dns.kubeconfig
  }
}
C
}

start() { ( eval "cmd_$1" ) >>$L/$1.log 2>&1 </dev/null & echo $! > $S/pids/$1; }
poll() { # poll NAME SECS CMD...
  local n=$1 s=$2; shift 2; for _ in $(seq $((s * 10))); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done; say "not ready: $n"; return 1; }

_init() { # PID 1 of the namespaces
  exec </dev/null
  trap ':' TERM INT HUP
  # A sysfs of our network namespace, with the cgroup mounts moved onto it (before any mount is made shared).
  mkdir -p $S/cg && mount --move /sys/fs/cgroup $S/cg && umount -l /sys && mount -t sysfs sysfs /sys && mount --move $S/cg /sys/fs/cgroup && rmdir $S/cg || echo "sysfs remount failed"
  mount --make-rshared /
  mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/log; mkdir -p /run/netns /run/lock
  for d in kubelet cni; do mkdir -p $S/$d.var; mount --bind $S/$d.var /var/lib/$d; done
  # The kubelet requires these global sysctls: mount files with the values over them, instead of changing the machine's.
  mkdir -p $S/sysctl
  for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    f=$S/sysctl/$(echo ${kv%=*} | tr / _); echo ${kv#*=} > $f; mount --bind $f /proc/sys/${kv%=*}; done
  hostname $NODE
  ip link set lo up
  for _ in $(seq 100); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.05; done
  ip addr add $IP/30 dev eth0 && ip link set eth0 up && ip route add default via $HIP
  ip link add cni0 type bridge && ip addr add $PODNET.1/24 dev cni0 && ip link set cni0 up
  echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null
  K="kubectl --kubeconfig $P/admin.kubeconfig"
  start etcd; start containerd
  poll etcd 30 curl -sf http://127.0.0.1:2379/health
  start apiserver
  poll containerd 30 ctr version
  ctr -n k8s.io images import --local --snapshotter overlayfs $S/pause.tar >>$L/import.log 2>&1 || say "the image of pause can't be imported"
  poll apiserver-livez 120 curl -sf --cacert $P/ca.crt https://$IP:6443/livez
  start kcm; start scheduler; start kubelet; start proxy; start dns
  poll apiserver-readyz 60 curl -sf --cacert $P/ca.crt --cert $P/admin.crt --key $P/admin.key https://$IP:6443/readyz
  poll node-ready 120 $K wait --for=condition=Ready node/$NODE --timeout=1s
  poll default-sa 60 $K get sa default
  poll dns 60 curl -sf http://127.0.0.1:8181/ready
  touch $S/up
  while :; do wait; sleep 1; done      # reaps children; a killed component stays dead until `start NAME`
}

up() {
  alive && die "it runs already"
  down
  mkdir -p $S/pids $L $P
  bash $HERE/pki.sh $P $IP $NODE || die "no keys: is openssl there?"
  python3 $HERE/pause.py $S/pause.tar $T/pause || die "no image of pause"
  configs
  for d in kubelet cni; do [ -e /var/lib/$d ] || { mkdir /var/lib/$d && echo $d >> $S/made; }; done
  for c in /sys/fs/cgroup/*/; do [ $c = /sys/fs/cgroup/unified/ ] || mkdir -p $c$CG || die "cgroups are read-only"; done
  for f in cpuset.cpus cpuset.mems; do cat /sys/fs/cgroup/cpuset/$f > /sys/fs/cgroup/cpuset/$CG/$f; done
  # Killing this script kills all of it.
  setpriv --pdeathsig KILL unshare -m -n -p -i -u -f --kill-child --propagation private --mount-proc \
    "$BASH" "$0" _init > $L/init.log 2>&1 < /dev/null &
  local u=$! p=
  for _ in $(seq 100); do
    p=$(cat /proc/$u/task/$u/children 2>/dev/null | tr -d ' ')
    [ -n "$p" ] && [ "$(readlink /proc/$p/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break
    sleep 0.05
  done
  echo $u > $S/unshare.pid; echo $p > $S/init.pid; readlink /proc/$p/ns/pid > $S/pidns
  ip link add $IFH type veth peer name eth0 netns $p && ip addr add $HIP/30 dev $IFH && ip link set $IFH up &&
    ip route add $PODNET.0/24 via $IP dev $IFH && ip route add $SVCNET.0.0/16 via $IP dev $IFH || die "no network"
  wait $u
}

down() {
  if alive; then
    local p u; p=$(initpid) u=$(cat $S/unshare.pid)
    kill -KILL $p            # The kernel kills everything in its namespaces.
    for _ in $(seq 300); do [ -e /proc/$u ] || break; sleep 0.1; done
  fi
  ip link del $IFH 2>/dev/null
  for _ in $(seq 50); do
    left=0
    for c in /sys/fs/cgroup/*/; do
      [ -d $c$CG ] && find $c$CG -depth -type d -exec rmdir {} + 2>/dev/null
      [ -d $c$CG ] && left=1
    done
    [ $left = 0 ] && break
    sleep 0.1
  done
  for d in $(cat $S/made 2>/dev/null); do rmdir /var/lib/$d; done
  rm -rf --one-file-system $S
}

case ${1:-} in
  _init) _init ;;
  up) up ;;
  down) down ;;
  exec) shift; alive || die "it does not run"; inns "$@" ;;
  ctr) shift; inns env PATH=$PATH ctr -n k8s.io "$@" ;;
  kill) inns kill -KILL $(cat $S/pids/$2) ;;
  start) inns setsid "$BASH" "$0" _start $2 ;;
  _start) start $2 ;;
  *) sed -n 2,16p "$0"; exit 2 ;;
esac
