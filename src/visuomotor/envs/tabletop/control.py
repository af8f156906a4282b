"""From an action to targets of the joint servos, tick by tick.

The controller keeps a *commanded* hand pose and the joint positions that belong to it. Deltas are
added to the commanded pose, not to the measured one, so that errors of the servos do not pile up;
it may run only a little ahead of the measured pose, so that the hand does not chase a command
through a wall.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from visuomotor.embodiments.base import Arm, Control

__all__ = ["LEAD", "TURN_LEAD", "Controller", "Kinematics", "rotation_vector"]

LEAD = 0.05
"""Largest distance between commanded and measured hand position, meters."""

TURN_LEAD = 0.35
"""Largest angle between commanded and measured hand orientation, radians."""

_RAMP = 0.5
"""Share of a tick in which the servos' targets change their velocity; at 10 Hz and full speed that is
13 m/s2 at the hand, the published limit of the arm. Jumps would shake things out of the fingers."""

_ITERATIONS = 4
_RESTART_ITERATIONS = 20
_STRAYED = 0.03  # meters and radians; a solution that is farther off is looked for elsewhere
_DAMPING_MATRIX = 0.03**2 * np.eye(6)  # near singular poses it trades accuracy for calm joints
_CLOSE = 3e-4  # meters and radians; the solver stops here
_HOME_PULL = 0.05  # share of the way home that the redundant joint goes in one iteration
_YAW_SHARE = 0.5  # how much yaw counts beside tilt where joints lack for both
_TURN_DAMPING = 0.2**2 * np.eye(3)  # there, a rotation that is hardly to be had shall not move joints far


class Kinematics:
    """Hand pose and Jacobian of an arm without its world."""

    def __init__(self, arm: Arm) -> None:
        world = mujoco.MjSpec()
        world.compiler.degree = False
        arm.build(world)
        self._model = world.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.hand).id
        self._joints = np.array([self._model.joint(name).qposadr[0] for name in arm.joints])
        self._dofs = np.array([self._model.joint(name).dofadr[0] for name in arm.joints])
        self._jacobian = np.zeros((6, self._model.nv))
        self._quat = np.zeros(4)

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and quaternion (4,) of the hand site for joint positions (joint,)."""
        self._data.qpos[self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mju_mat2Quat(self._quat, self._data.site_xmat[self._site])
        return self._data.site_xpos[self._site].copy(), self._quat.copy()

    def jacobian(self) -> np.ndarray:
        """Jacobian (6, joint) of the pose that `forward` computed last: position, then rotation."""
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, self._dofs]


class Controller:
    """Commanded pose, its joint positions, and the way from an action to the next ones.

    Attributes:
        position: Commanded hand position (3,), meters.
        quat: Commanded hand orientation (w, x, y, z).
        joints: Commanded joint positions (joint,) at the end of the tick.
        velocity: Velocity (joint,) of the servos' targets at the end of the tick, rad/s.
        grip: Commanded gripper, 0 open to 1 closed.
    """

    def __init__(self, arm: Arm, control: Control, rate: float) -> None:
        self._arm = arm
        self._control = control
        self._kinematics = Kinematics(arm)
        self._low, self._high, self._home = np.array(arm.low), np.array(arm.high), np.array(arm.home)
        self._rate = rate
        self._step = np.array(arm.speed) / rate
        self._lacking = len(arm.joints) < 6
        self._pull = _HOME_PULL if len(arm.joints) > 6 else 0.0
        # Servos damp with their velocity; leading the targets by as much cancels the lag.
        self._lead = np.array(arm.damping) / np.array(arm.stiffness)
        self._move, self._turn = arm.move_limit / rate, arm.turn_limit / rate
        self._reach, self._at = np.array(arm.reach), np.array(arm.at)
        self._down = np.array(arm.down)
        self._up = _inverse(self._down)
        self.reset()

    def reset(self) -> None:
        """Command the home pose with an open gripper."""
        self.joints = self._home.copy()
        self.velocity = np.zeros(len(self.joints))
        self.position, self.quat = self._kinematics.forward(self.joints)
        self.grip = 0.0

    def stay(self) -> np.ndarray:
        """The action (action,) that stays at home with an open gripper."""
        return np.append(self._home if self._control == "joint" else np.zeros(6), 0.0)

    def pose(self) -> np.ndarray:
        """Commanded pose (6,): position and rotation vector from looking down."""
        return np.concatenate([self.position, self.describe(self.quat)])

    def hand(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and quaternion (4,) of the hand for joint positions (joint,); changes nothing."""
        return self._kinematics.forward(joints)

    def describe(self, quat: np.ndarray) -> np.ndarray:
        """Rotation vector (3,) of a hand orientation from looking straight down, base frame."""
        return rotation_vector(_product(quat, self._up))

    def command(self, action: np.ndarray, position: np.ndarray, quat: np.ndarray, steps: int) -> np.ndarray:
        """Take in one action; returns targets of the servos (step, joint) for the physics steps of the tick.

        Args:
            action: Raw action; numbers beyond the limits of the spec are clipped.
            position: Measured hand position (3,).
            quat: Measured hand orientation (4,).
            steps: Physics steps of the tick.
        """
        start = self.joints
        self.grip = float(np.clip(action[-1], 0.0, 1.0))
        if self._control == "joint":
            self.joints = self._limited(np.clip(action[:-1], self._low, self._high))
            self.position, self.quat = self._kinematics.forward(self.joints)
        else:
            self._follow(action, position, quat)
            joints = self._solve()
            if self._lacking:  # what cannot be had is given up, so that it does not pile up
                self.quat = self._kinematics.forward(joints)[1]
            self.joints = self._limited(joints)
        return self._targets(start, steps)

    def _follow(self, action: np.ndarray, position: np.ndarray, quat: np.ndarray) -> None:
        """Move the commanded pose by a delta, not far ahead of the measured one and within reach."""
        move = np.clip(action[:3], -self._move, self._move)
        turn = np.clip(action[3:6], -self._turn, self._turn)
        self.position = np.clip(position + _shorter(self.position + move - position, LEAD), *self._reach)
        self.position[:2] = self._at + _shorter(self.position[:2] - self._at, self._arm.span)
        ahead = rotation_vector(_product(_product(_quaternion(turn), self.quat), _inverse(quat)))
        wanted = _product(_quaternion(_shorter(ahead, TURN_LEAD)), quat)
        tilt = rotation_vector(_product(wanted, self._up))
        self.quat = _product(_quaternion(_shorter(tilt, self._arm.turn)), self._down)

    def _targets(self, start: np.ndarray, steps: int) -> np.ndarray:
        """Targets (step, joint) from `start` to the commanded joints, without a jump in velocity."""
        mean = (self.joints - start) * self._rate
        before = self.velocity
        self.velocity = (mean - before * _RAMP / 2) / (1 - _RAMP / 2)
        change = self.velocity - before
        time = ((np.arange(steps) + 0.5) / steps)[:, None]  # share of the tick, (step, 1)
        ramp = np.minimum(time, _RAMP)
        # Way under a velocity that changes linearly until `_RAMP` and then stays.
        way = before * time + change * (ramp**2 / (2 * _RAMP) + (time - ramp))
        return start + way / self._rate + (before + change * ramp / _RAMP) * self._lead

    def preview(self, action: np.ndarray, position: np.ndarray, quat: np.ndarray) -> np.ndarray:
        """Joint targets (joint,) that do what an end-effector delta `action` would; changes nothing."""
        kept = self.position, self.quat
        self._follow(action, position, quat)
        joints = self._limited(self._solve())
        self.position, self.quat = kept
        return joints

    def way_to_yaw(self, yaw: float) -> np.ndarray:
        """Rotation vector (3,) from the commanded orientation to looking straight down, turned by `yaw`."""
        upright = _product(_quaternion(np.array([0.0, 0.0, yaw])), self._down)
        return rotation_vector(_product(upright, _inverse(self.quat)))

    def _limited(self, joints: np.ndarray) -> np.ndarray:
        """As far towards `joints` as the velocity limits let them go in one tick, in proportion."""
        way = joints - self.joints
        excess = np.max(np.abs(way) / self._step)
        return self.joints + way / max(1.0, excess)

    def _solve(self) -> np.ndarray:
        """Joint positions (joint,) of the commanded pose within the joint limits, near the present ones.

        Where the way there ends at joint limits, the solution next to the home pose is taken instead.
        """
        joints, error = self._descend(self.joints, _ITERATIONS)
        if error < _STRAYED:
            return joints
        other, other_error = self._descend(self._home, _RESTART_ITERATIONS)
        return other if other_error < 0.5 * error else joints

    def _descend(self, joints: np.ndarray, iterations: int) -> tuple[np.ndarray, float]:
        """Joint positions (joint,) and what is left of the error, in meters and radians.

        Damped least squares (Wampler 1986; Nakamura and Hanafusa 1986) with a pull home in the null
        space. A joint that would leave its limits stays there, and the others do its share.
        """
        error = np.zeros(6)
        for _ in range(iterations):
            position, quat = self._kinematics.forward(joints)
            error[:3] = self.position - position
            error[3:] = rotation_vector(_product(self.quat, _inverse(quat)))
            if np.abs(error).max() < _CLOSE:
                break
            jacobian = self._kinematics.jacobian()
            pull = self._pull * (self._home - joints)
            free = np.ones(len(joints))
            for _ in range(len(joints)):
                part = jacobian * free
                if self._lacking:
                    way = _prioritized(part, error)
                else:
                    inverse = np.linalg.solve(part @ part.T + _DAMPING_MATRIX, part).T  # (joint, 6)
                    way = inverse @ (error - part @ pull) + pull * free
                beyond = ((joints + way < self._low) | (joints + way > self._high)) & (free > 0)
                if not beyond.any():
                    break
                free[beyond] = 0.0
            joints = np.minimum(np.maximum(joints + way, self._low), self._high)
        return joints, float(np.abs(error[:3] if self._lacking else error).max())

    # ---- snapshot ----------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Everything that `restore` needs."""
        return np.concatenate([self.position, self.quat, self.joints, self.velocity, [self.grip]]).tobytes()

    def restore(self, snapshot: bytes) -> None:
        """Inverse of `snapshot`."""
        numbers = np.frombuffer(snapshot, np.float64)
        self.position, self.quat = numbers[:3].copy(), numbers[3:7].copy()
        self.joints, self.velocity = numbers[7:-1].reshape(2, -1).copy()
        self.grip = float(numbers[-1])


def _prioritized(jacobian: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Way (joint,) of an arm with too few joints: position first, then as much of the rotation as is left.

    Task priority by null space (Nakamura, Hanafusa and Yoshikawa 1987), each level damped; the null
    space itself is exact, so that a rotation that cannot be had does not pull at the position.
    """
    first, second = jacobian[:3], jacobian[3:] * [[1.0], [1.0], [_YAW_SHARE]]
    inverse = np.linalg.solve(first @ first.T + _DAMPING_MATRIX[:3, :3], first).T  # (joint, 3)
    way = inverse @ error[:3]
    rest = second - second @ np.linalg.pinv(first, rcond=0.02) @ first
    left = error[3:] * [1.0, 1.0, _YAW_SHARE] - second @ way
    return way + np.linalg.solve(rest @ rest.T + _TURN_DAMPING, rest).T @ left


def rotation_vector(quat: np.ndarray) -> np.ndarray:
    """Axis times angle (3,), angle in [0, pi], of a quaternion (4,)."""
    vector = np.empty(3)
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector


def _quaternion(vector: np.ndarray) -> np.ndarray:
    """Quaternion (4,) of a rotation vector (3,)."""
    quat = np.empty(4)
    angle = math.sqrt(float(vector @ vector))
    mujoco.mju_axisAngle2Quat(quat, vector / angle if angle > 0 else np.array([0.0, 0.0, 1.0]), angle)
    return quat


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rotation by `right`, then by `left`."""
    quat = np.empty(4)
    mujoco.mju_mulQuat(quat, left, right)
    mujoco.mju_normalize4(quat)
    return quat


def _inverse(quat: np.ndarray) -> np.ndarray:
    """The opposite rotation."""
    inverse = np.empty(4)
    mujoco.mju_negQuat(inverse, quat)
    return inverse


def _shorter(vector: np.ndarray, limit: float) -> np.ndarray:
    """`vector`, shortened to `limit` if it is longer."""
    length = math.sqrt(float(vector @ vector))
    return vector * (limit / length) if length > limit else vector
